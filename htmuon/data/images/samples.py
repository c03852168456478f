"""Single images, decoded and cropped: what the processes do that prepare batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from htmuon.data.images.augmentation import Transform, seeded
from htmuon.data.images.stored import StoredImages, UnreadableImageError
from htmuon.training.resumable import EpochDraws, mix_seed

# A sample that fails so often in a row is of data that is damaged as a whole.
ATTEMPTS = 20
# Apart from the numbers of epochs and steps, which other random numbers of a run are made from.
_SAMPLES, _SUBSTITUTES = 1 << 40, 1 << 41


@dataclass(frozen=True)
class Sample:
    """One image.

    Args:
        pixels: uint8 `[3, height, width]`; None if no image could be read.
        label: its class number.
        problems: what was wrong with the images that were tried before it.
    """

    pixels: Tensor | None
    label: int
    problems: tuple[str, ...]


class TrainingSamples(Dataset[Sample]):
    """Training images in a new random order each epoch, each with augmentations of its own.

    Sample number i of a run depends on the images, the seed and i alone: not on the process that makes it, nor on what
    was made before. In place of an image that cannot be read, another one is drawn.

    Args:
        images: the training images.
        which: the numbers of those that are used, `[samples]`.
        transform: random, from an image to uint8 `[3, height, width]`.
        seed: of the run.
    """

    def __init__(self, images: StoredImages, which: Tensor, transform: Transform, *, seed: int) -> None:
        self.images, self.which, self.transform, self.seed = images, which, transform, seed
        self._order = EpochDraws(self._permutation, len(which), seed=seed, device=torch.device("cpu"))

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.which), generator=generator)

    def __getitem__(self, number: int) -> Sample:
        """Sample number `number` of the run, from 0 without end."""
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            place = int(self._order(number, 1)) if attempt == 0 else self._substitute(number, attempt)
            index = int(self.which[place])
            try:
                image = self.images.read(index)
            except UnreadableImageError as error:
                problems.append(str(error))
                continue
            with seeded(mix_seed(mix_seed(self.seed, _SAMPLES), number)):
                return Sample(self.transform(image), int(self.images.labels[index]), tuple(problems))
        return Sample(None, -1, tuple(problems))

    def _substitute(self, number: int, attempt: int) -> int:
        return mix_seed(mix_seed(mix_seed(self.seed, _SUBSTITUTES), number), attempt) % len(self.which)


class HeldOutSamples(Dataset[Sample]):
    """Held-out images, in order.

    Args:
        images: the test images.
        which: the numbers of those that are used, `[samples]`.
        transform: from an image to uint8 `[3, height, width]`.
    """

    def __init__(self, images: StoredImages, which: Tensor, transform: Transform) -> None:
        self.images, self.which, self.transform = images, which, transform

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, number: int) -> Sample:
        """Image number `number` of those that are used."""
        index = int(self.which[number])
        try:
            return Sample(self.transform(self.images.read(index)), int(self.images.labels[index]), ())
        except UnreadableImageError as error:
            return Sample(None, -1, (str(error),))
