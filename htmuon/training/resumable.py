"""Learning rate and random numbers as pure functions of seed and step: a resumed run needs no state for them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def lr_factor(step: int, *, steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Linear warm-up to 1, then a cosine to `final_fraction` at the last step.

    With W = round(warmup_fraction * steps): (step + 1) / W for step < W, then
    final + (1 - final) * (1 + cos(pi * (step + 1 - W) / (steps - W))) / 2.

    Args:
        step: from 0 to steps - 1.
        steps: steps of the whole run.
        warmup_fraction: share of the steps in the warm-up, from 0 to 1.
        final_fraction: the factor of the last step.

    Example:
        >>> [round(lr_factor(t, steps=8, warmup_fraction=0.25, final_fraction=0.1), 3) for t in (0, 1, 4, 7)]
        [0.5, 1.0, 0.55, 0.1]
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step + 1 - warmup) / (steps - warmup)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def keep_initial_lr(optimizer: torch.optim.Optimizer) -> None:
    """Store the peak learning rate of each group under "initial_lr", torch's name, where it is not there yet."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])


def scale_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its "initial_lr"."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


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
