"""Random numbers as pure functions of a seed and a position, so that a resumed run needs no state for them."""

from collections.abc import Callable

import torch
from torch import Tensor


def mix_seed(seed: int, index: int) -> int:
    """One 63-bit seed from two numbers, so that neighbouring pairs give unrelated streams (SplitMix64's finalizer)."""
    mask = (1 << 64) - 1
    # The constants are those of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
    mixed = (seed * 0x9E3779B97F4A7C15 + index + 1) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1


class EpochDraws:
    """What is drawn for each sample of a run, anew each epoch.

    Sample i of a run gets row `i % samples` of `draw(generator)`, with a generator seeded for epoch `i // samples`.

    Args:
        draw: makes the draws of one epoch on the CPU, `[samples, ...]`, so that they are the same on every device.
        samples: in an epoch.
        seed: of the run.
        device: where the draws are needed.

    Example:
        >>> order = EpochDraws(lambda g: torch.randperm(4, generator=g), 4, seed=0, device=torch.device("cpu"))
        >>> sorted(order(0, 4).tolist()), order(2, 4)[2:].equal(order(4, 2))
        ([0, 1, 2, 3], True)
    """

    def __init__(
        self, draw: Callable[[torch.Generator], Tensor], samples: int, *, seed: int, device: torch.device
    ) -> None:
        self.draw, self.samples, self.seed, self.device = draw, samples, seed, device
        self._epoch = -1
        self._draws = torch.empty(0)

    def __call__(self, first: int, count: int) -> Tensor:
        """The draws of samples `first` to `first + count - 1` of the run."""
        epoch, offset = divmod(first, self.samples)
        head = self._of_epoch(epoch)[offset : offset + count]
        if len(head) == count:
            return head
        return torch.cat([head, self(first + len(head), count - len(head))])

    def _of_epoch(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            self._draws = self.draw(generator).to(self.device)
            self._epoch = epoch
        return self._draws
