"""What training does to images: the parts of `timm` that make up the training of DeiT.

Crops, flips and RandAugment are for one image and run where it is decoded; random erasing and the mixing of two images
are for a batch and run on the device, as `timm` divides them.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htmuon._extras import require
from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.training.task import Batch

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[["Image"], Tensor]

# Of each channel of ImageNet, as timm and torchvision have them, for pixels from 0 to 1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDING = 4


def training_transform(config: ImageStreamConfig) -> Transform:
    """A random function from an RGB image to uint8 `[3, image_size, image_size]`.

    Raises:
        ValueError: `rand_augment` is not a spec.
    """
    try:
        transform: Transform = require("timm.data", extra="vision").create_transform(
            config.image_size,
            is_training=True,
            auto_augment=config.rand_augment or None,
            color_jitter=None,
            interpolation="bicubic",
            use_prefetcher=True,  # uint8 comes out; normalization and erasing are for the device
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"rand_augment must be a spec of timm; {config.rand_augment!r} is not: {error!r}.") from error
    for step in transform.transforms:  # type: ignore[attr-defined]
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    if config.crop == "padded":
        # As DeiT does for CIFAR (its datasets.py): in place of the random part of the image, which is the first one.
        transforms = require("torchvision.transforms", extra="vision")
        crop = transforms.RandomCrop(config.image_size, padding=PADDING, pad_if_needed=True)
        transform.transforms[0] = crop  # type: ignore[attr-defined]
    return transform


def _at_least_one_bit(bits: Callable[..., tuple[int]], *level: Any) -> tuple[int]:
    """The arguments of posterization; timm's highest level keeps no bit at all, which is an error to Pillow."""
    return (max(bits(*level)[0], 1),)


def evaluation_transform(config: ImageStreamConfig) -> Transform:
    """A function from an RGB image to uint8 `[3, image_size, image_size]`: resized, and cropped in the middle."""
    transform: Transform = require("timm.data", extra="vision").create_transform(
        config.image_size,
        is_training=False,
        interpolation="bicubic",
        crop_pct=0.875 if config.crop == "resized" else 1.0,
        use_prefetcher=True,
    )
    return transform


class BatchAugmentation:
    """Normalization, random erasing, and mixup or cutmix of a batch.

    Args:
        config: the settings.
        classes: how many there are.
        device: of the batches.

    Example:
        >>> augment = BatchAugmentation(ImageStreamConfig(), 5, torch.device("cpu"))
        >>> images, targets = augment(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), seed=0)
        >>> images.dtype, targets.shape
        (torch.float32, torch.Size([4, 5]))
    """

    def __init__(self, config: ImageStreamConfig, classes: int, device: torch.device) -> None:
        self.device = device
        self.mean, self.deviation = (
            255 * torch.tensor(values, device=device)[:, None, None] for values in (MEAN, DEVIATION)
        )
        self.erase = require("timm.data.random_erasing", extra="vision").RandomErasing(
            config.erasing, mode="pixel", device=device
        )
        self.mix = None
        if config.mixup > 0 or config.cutmix > 0:
            # Smoothing is linear: the loss smooths the mixed targets as well as Mixup would those that it mixes.
            self.mix = require("timm.data.mixup", extra="vision").Mixup(
                mixup_alpha=config.mixup, cutmix_alpha=config.cutmix, label_smoothing=0.0, num_classes=classes
            )

    def __call__(self, pixels: Tensor, labels: Tensor, *, seed: int) -> Batch:
        """What the network learns from.

        Args:
            pixels: uint8 `[batch, 3, height, width]`.
            labels: class numbers `[batch]`.
            seed: of what is random.

        Returns:
            Images, float32 like `pixels`, and class numbers `[batch]`, or shares of the classes `[batch, classes]`.
        """
        with seeded(seed, self.device):
            images = self.erase(self.normalize(pixels))
            return (images, labels) if self.mix is None else self.mix(images, labels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels as numbers whose mean over ImageNet is 0 and whose variance is 1."""
        return (pixels.float() - self.mean) / self.deviation


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch, from which `timm` draws, while the context is open.

    Afterwards they are as they were.

    Args:
        seed: from 0 to 2^63 - 1.
        device: the CUDA device whose generator is meant too.

    Example:
        >>> state = random.getstate()
        >>> with seeded(3):
        ...     first = random.random()
        >>> with seeded(3):
        ...     first == random.random(), random.getstate() == state
        (True, False)
        >>> random.getstate() == state
        True
    """
    numpy = require("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        numpy.random.seed(seed % 2**32)  # NumPy's old generators, which timm draws from, take 32 bits
        # Not `torch.manual_seed`, which takes a millisecond to seed devices that may not even be there.
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
