"""An image classification run, seen by the trainer: a network, a training loss, an evaluation."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from htmuon.data.images.decoded import decode_set, fingerprint_of_set
from htmuon.data.images.image_batches import ImageBatches
from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.image_task import ImageTask, classify
from htmuon.data.images.images import ImageSet, fingerprint, read_file, split_images
from htmuon.data.images.opening import is_array_file, open_stored
from htmuon.training.run_config import RunConfig
from htmuon.training.task import Batch, Evaluation


class ImageSource:
    """The images of a run, in memory.

    Args:
        config: the settings of the run.
        data: its images.

    Raises:
        ValueError: the images cannot be read or are not usable.
    """

    libraries: tuple[str, ...] = ("numpy", "timm", "torchvision", "safetensors")

    def __init__(self, config: RunConfig, data: ImageConfig) -> None:
        self.config, self.data = config, data
        self.problems: list[str] = []
        path = data.path
        if is_array_file(path):
            content = read_file(path)
            self.fingerprint = fingerprint(content)
            self.images = split_images(content, path)
        else:
            self.images, self.problems = decode_set(open_stored(path), path)
            self.fingerprint = fingerprint_of_set(self.images)
            self.libraries = (*self.libraries, "datasets", "pillow")

    def build_model(self) -> torch.nn.Module:
        """The network with its initial weights, on the CPU; equal settings, data and seeds give equal weights."""
        channels, height, width = self.images.training.pixels.shape[1:]
        sizes = {"classes": self.images.classes, "channels": channels, "height": height, "width": width}
        return self.config.model.build_model(**sizes, seed=self.config.seed)

    def open(self, device: torch.device, cache: Path, on_message: Callable[[str], None]) -> "ImageClassification":
        """The task, with the images on `device`; there is nothing to cache."""
        task = ImageClassification(self.config, self.data, self.images, device, on_message)
        task.leave_out(self.problems)
        return task


class ImageClassification(ImageTask):
    """Classification by cross-entropy.

    Args:
        config: the settings of the run.
        data: what training does to the images.
        images: by use.
        device: where batches are made.
        on_message: called with a sentence about images that were left out.

    Raises:
        ValueError: the training images do not fill one batch.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageConfig,
        images: ImageSet,
        device: torch.device,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(on_message)
        training, held_out = (part.to(device) for part in images.of(config.split))
        self.batch_size = config.batch_size
        self.label_smoothing = data.label_smoothing
        self.batches = ImageBatches(training, data, batch_size=config.batch_size, seed=config.seed)
        self.held_out = held_out
        self.mean, self.deviation = (part.to(device) for part in pixel_statistics(images.training.pixels))
        self.chance_loss = math.log(images.classes) - 1e-3

    def fetch(self, index: int) -> Batch:
        """Pixels `[batch_size, channels, height, width]` (uint8) and labels of training batch number `index`."""
        return self.batches[index]

    def training_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean smoothed cross-entropy in nats per image, 0-d, of a batch."""
        pixels, labels = batch
        loss: Tensor = cross_entropy(model(self._normalized(pixels)), labels, label_smoothing=self.label_smoothing)
        return loss

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module) -> Evaluation:
        """Mean cross-entropy, without smoothing, and accuracy over all held-out images."""
        starts = range(0, len(self.held_out), self.batch_size)
        parts = (self.held_out[first : first + self.batch_size] for first in starts)
        return classify(model, ((self._normalized(part.pixels), part.labels) for part in parts), self.mean.device)

    def _normalized(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean) / self.deviation


def pixel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, float32 `[channels, 1, 1]`; a constant channel has deviation 1.

    They come from a count of the 256 values, which needs no floating-point copy of all images.

    Example:
        >>> mean, deviation = pixel_statistics(torch.tensor([10, 30], dtype=torch.uint8).view(2, 1, 1, 1))
        >>> float(mean), float(deviation)
        (20.0, 10.0)
    """
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.unbind(1)]).double()
    shares = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64)
    mean = shares @ values
    deviation = ((values - mean[:, None]).square() * shares).sum(1).sqrt()
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return mean.float()[:, None, None], deviation.float()[:, None, None]
