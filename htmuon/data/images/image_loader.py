"""Batches of samples, made by other processes before they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from htmuon._device import usable_cores
from htmuon.data.images.samples import Sample

MOST_WORKERS = 16
# Batches that each process makes ahead: they and the one in use are all that is in memory.
AHEAD = 2


@dataclass(frozen=True)
class LoadedBatch:
    """Images of one batch, on the CPU.

    Args:
        pixels: uint8 `[batch, 3, height, width]`.
        labels: class numbers, int64 `[batch]`.
        problems: what was wrong with images that were left out.
    """

    pixels: Tensor
    labels: Tensor
    problems: tuple[str, ...]

    def pin_memory(self) -> "LoadedBatch":
        """The same in memory from which copies to a GPU need not be waited for; the loader calls this."""
        return LoadedBatch(self.pixels.pin_memory(), self.labels.pin_memory(), self.problems)


class Consecutive(Sampler[list[int]]):
    """The numbers of the samples of batch `first` and all later ones.

    Example:
        >>> batches = iter(Consecutive(batch_size=3, first=2))
        >>> next(batches), next(batches)
        ([6, 7, 8], [9, 10, 11])
    """

    def __init__(self, *, batch_size: int, first: int) -> None:
        self.batch_size, self.first = batch_size, first

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while True:
            yield list(range(batch * self.batch_size, (batch + 1) * self.batch_size))
            batch += 1


class TrainingLoader:
    """Training batches by number. Asked for in order, they are made ahead; any other one can be asked for, too.

    Args:
        samples: makes sample number i of the run.
        batch_size: images in a batch.
        workers: processes; 0 makes batches when they are asked for.
        pin: copy batches to memory from which a GPU can fetch them.
    """

    def __init__(self, samples: Dataset[Sample], *, batch_size: int, workers: int, pin: bool) -> None:
        self.samples, self.batch_size, self.workers, self.pin = samples, batch_size, workers, pin
        self._next = 0
        self._batches: Iterator[LoadedBatch] | None = None

    def __getitem__(self, batch: int) -> LoadedBatch:
        """Batch number `batch`, from 0 without end."""
        if self._batches is None or batch != self._next:
            numbers = Consecutive(batch_size=self.batch_size, first=batch)
            self._batches = iter(loader(self.samples, workers=self.workers, pin=self.pin, batch_sampler=numbers))
        self._next = batch + 1
        return next(self._batches)


def loader(samples: Dataset[Sample], *, workers: int, pin: bool, **batches: Any) -> DataLoader[LoadedBatch]:
    """A loader whose batches are `LoadedBatch`.

    Args:
        samples: to take from.
        workers: processes.
        pin: copy batches to memory from which a GPU can fetch them.
        batches: `batch_size`, or `batch_sampler`.
    """
    made: DataLoader[Any] = DataLoader(
        samples,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        prefetch_factor=AHEAD if workers else None,
        # The loader draws a seed for its processes from here: the stream of the caller is not touched.
        generator=torch.Generator(),
        **batches,
    )
    return made


def collate(samples: list[Sample]) -> LoadedBatch:
    """The samples that have an image, as one batch."""
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    labels = [sample.label for sample in samples if sample.pixels is not None]
    problems = tuple(problem for sample in samples for problem in sample.problems)
    stacked = torch.stack(pixels) if pixels else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return LoadedBatch(stacked, torch.tensor(labels, dtype=torch.int64), problems)


def worker_count(workers: int | None) -> int:
    """How many processes prepare data: as many as asked for, or one per core but one, from 1 to 16."""
    if workers is not None:
        return workers
    return min(max(usable_cores() - 1, 1), MOST_WORKERS)
