"""Counting steps of which some are skipped on the device, without waiting for it."""

import torch
from torch import Tensor


class StepCount:
    """How many steps were taken.

    A `torch.amp.GradScaler` calls the step of a fused optimizer also where gradients are not finite, and leaves it to
    the device to skip it. Whether it did is kept there until somebody asks.

    Args:
        done: steps taken before.

    Example:
        >>> count = StepCount(5)
        >>> count.add(torch.tensor(1.0)), count.add(torch.tensor(0.0)), count.at_most, count.taken()
        (None, None, 7, 6)
    """

    def __init__(self, done: int) -> None:
        self.at_most = done
        self._skipped: list[Tensor] = []

    def add(self, found_inf: Tensor | None) -> None:
        """Count a call of `step`, skipped where the flag is above zero; None is a step that was taken."""
        self.at_most += 1
        if isinstance(found_inf, Tensor):
            skipped = (found_inf.detach() > 0).to(torch.int64).sum()
            self._skipped = [sum(self._skipped, skipped)]

    def taken(self) -> int:
        """The steps that were taken; waits for the device where some may have been skipped since it was last asked."""
        for skipped in self._skipped:
            self.at_most -= int(skipped)
        self._skipped = []
        return self.at_most
