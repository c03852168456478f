"""Training batches as a pure function of the seed and the position: order, crops and flips."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.images import LabelledImages
from htmuon.training.resumable import EpochDraws


class ImageBatches:
    """Training images in a new random order each epoch, each with a crop and a flip of its own.

    Order, crops and flips of an epoch are drawn together. So the data has no state, and what a step sees depends
    neither on the optimizer, nor on where a run was resumed, nor on how a step is divided into accumulated batches.

    Args:
        images: on the device where batches are needed.
        config: the augmentation.
        batch_size: images in a batch.
        seed: of the run.

    Raises:
        ValueError: the images do not fill one batch.

    Example:
        >>> images = LabelledImages(pixels=torch.zeros(5, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(5))
        >>> pixels, labels = ImageBatches(images, ImageConfig(), batch_size=4, seed=0)[1]
        >>> pixels.shape, labels.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
    """

    def __init__(self, images: LabelledImages, config: ImageConfig, *, batch_size: int, seed: int) -> None:
        if len(images) < batch_size:
            raise ValueError(
                f"the training images must fill one batch of {batch_size}; there are {len(images)}. "
                "Give more images, or a smaller batch size."
            )
        self.config = config
        self.batch_size = batch_size
        self.labels = images.labels
        self.height, self.width = images.pixels.shape[-2:]
        self.padded = pad(images.pixels, (config.crop_padding,) * 4)
        self._draws = EpochDraws(self._draw, len(images), seed=seed, device=images.labels.device)

    def __getitem__(self, batch: int) -> tuple[Tensor, Tensor]:
        """Batch number `batch`, from 0 without end: uint8 `[batch_size, channels, height, width]`, `[batch_size]`."""
        index, top, left, flip = self._draws(batch * self.batch_size, self.batch_size).unbind(1)
        columns = torch.arange(self.width, device=index.device)
        columns = left[:, None] + torch.where(flip[:, None] == 1, columns.flip(0), columns)
        rows = top[:, None] + torch.arange(self.height, device=index.device)
        # [batch, height, width, channels], for the index arrays stand on both sides of the channels.
        pixels = self.padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return pixels.permute(0, 3, 1, 2), self.labels[index]

    def _draw(self, generator: torch.Generator) -> Tensor:
        """`[images, 4]`: the number of an image, the top and the left of its crop, and whether it is flipped."""
        count = len(self.labels)
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(2 * self.config.crop_padding + 1, (count, 2), generator=generator)
        flips = torch.randint(1 + self.config.flip, (count, 1), generator=generator)
        return torch.cat([order[:, None], offsets, flips], dim=1)
