"""An image classification run whose images are decoded while it trains."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from htmuon.data.held_back import held_back
from htmuon.data.images.arrays import open_arrays
from htmuon.data.images.augmentation import BatchAugmentation, evaluation_transform, training_transform
from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.data.images.image_loader import LoadedBatch, TrainingLoader, loader, worker_count
from htmuon.data.images.image_task import ImageTask, classify
from htmuon.data.images.opening import is_array_file, open_stored
from htmuon.data.images.samples import ATTEMPTS, HeldOutSamples, TrainingSamples
from htmuon.data.images.stored import NO_LABEL, StoredImages, StoredSet
from htmuon.training.resumable import mix_seed
from htmuon.training.run_config import RunConfig
from htmuon.training.task import Batch, Evaluation

# Apart from the numbers that other random numbers of a run are made from.
_BATCHES = 1 << 42


class ImageStreamSource:
    """The images of a run, where they are stored.

    Args:
        config: the settings of the run.
        data: its images.

    Raises:
        ValueError: the images or the settings are not usable.
    """

    libraries = ("numpy", "timm", "torchvision", "safetensors", "datasets", "pillow")

    def __init__(self, config: RunConfig, data: ImageStreamConfig) -> None:
        if config.batch_size % 2 and (data.mixup or data.cutmix):
            raise ValueError(
                "batch_size must be even, because mixup and cutmix pair the images of a batch; got "
                f"{config.batch_size}. Choose another, or set data.mixup and data.cutmix to 0."
            )
        self.config, self.data = config, data
        self.stored = open_arrays(data.path) if is_array_file(data.path) else open_stored(data.path)
        self.fingerprint = self.stored.fingerprint

    def build_model(self) -> torch.nn.Module:
        """The network with its initial weights, on the CPU; equal settings, data and seeds give equal weights."""
        side = self.data.image_size
        sizes = {"classes": self.stored.classes, "channels": 3, "height": side, "width": side}
        return self.config.model.build_model(**sizes, seed=self.config.seed)

    def open(self, device: torch.device, cache: Path, on_message: Callable[[str], None]) -> "ImageStream":
        """The task; there is nothing to cache."""
        return ImageStream(self.config, self.data, self.stored, device, on_message)


class ImageStream(ImageTask):
    """Classification by cross-entropy of images that other processes decode.

    Args:
        config: the settings of the run.
        data: what training does to the images.
        stored: the images.
        device: where batches are used.
        on_message: called with a sentence about images that cannot be read.

    Raises:
        ValueError: the training images do not fill one batch.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageStreamConfig,
        stored: StoredSet,
        device: torch.device,
        on_message: Callable[[str], None],
    ) -> None:
        super().__init__(on_message)
        self.device, self.seed = device, mix_seed(config.seed, _BATCHES)
        self.batch_size, self.label_smoothing = config.batch_size, data.label_smoothing
        of_training = torch.arange(len(stored.training.labels))
        if config.split == "confirmation":
            back = held_back(len(of_training))
            judged_by, judging, of_training = stored.training, of_training[back], of_training[~back]
        else:
            judged_by = stored.test
            judging = torch.arange(0 if config.split == "validation" else 1, len(stored.test.labels), 2)
        training = self._labelled(stored.training, of_training)
        if len(training) < config.batch_size:
            raise ValueError(
                f"the training images must fill one batch of {config.batch_size}; there are {len(training)} with a "
                "class. Give more images, or a smaller batch size."
            )
        self.workers, self.pin = worker_count(config.workers), device.type == "cuda"
        samples = TrainingSamples(stored.training, training, training_transform(data), seed=config.seed)
        self.batches = TrainingLoader(samples, batch_size=config.batch_size, workers=self.workers, pin=self.pin)
        held_out = self._labelled(judged_by, judging)
        self.held_out = HeldOutSamples(judged_by, held_out, evaluation_transform(data))
        self.augment = BatchAugmentation(data, stored.classes, device)
        self.chance_loss = math.log(stored.classes) - 1e-3

    def fetch(self, index: int) -> Batch:
        """Images `[batch_size, 3, image_size, image_size]` and targets of training batch number `index`.

        Raises:
            ValueError: the data is damaged as a whole.
        """
        batch = self.batches[index]
        self.leave_out(batch.problems)
        if len(batch.labels) < self.batch_size:
            raise ValueError(
                f"most training images must be readable; of {ATTEMPTS} in a row none was, the last because "
                f"{batch.problems[-1]}. Look at the files."
            )
        return self.augment(*self._on_device(batch), seed=mix_seed(self.seed, index))

    def training_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean smoothed cross-entropy in nats per image, 0-d, of a batch."""
        images, targets = batch
        return cross_entropy(model(images), targets, label_smoothing=self.label_smoothing)

    def evaluate(self, model: torch.nn.Module) -> Evaluation:
        """Mean cross-entropy, without smoothing, and accuracy over all held-out images that can be read.

        Raises:
            ValueError: none can.
        """
        return classify(model, self._held_out_batches(), self.device)

    def _held_out_batches(self) -> Iterator[Batch]:
        for batch in loader(self.held_out, workers=self.workers, pin=self.pin, batch_size=self.batch_size):
            self.leave_out(batch.problems)
            if len(batch.labels):
                pixels, labels = self._on_device(batch)
                yield self.augment.normalize(pixels), labels

    def _on_device(self, batch: LoadedBatch) -> Batch:
        pixels, labels = (part.to(self.device, non_blocking=self.pin) for part in (batch.pixels, batch.labels))
        return pixels, labels

    def _labelled(self, images: StoredImages, which: Tensor) -> Tensor:
        """Those of the images of the numbers `which` that have a class."""
        without = images.labels[which] == NO_LABEL
        self.leave_out([f"{images.name(index)} has no class" for index in which[without].tolist()])
        return which[~without]
