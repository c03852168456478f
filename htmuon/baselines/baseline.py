"""Optimizers of other packages as one, which leaves out steps that are not finite."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import get_total_norm


class Baseline(torch.optim.Optimizer):
    """One or more optimizers, each with its own parameters, as one for schedulers, checkpoints and trainers.

    Its groups and states are those of the parts. A step in which a gradient is not finite is left out and counted; to
    know that, the host waits for the device once in each step.

    Args:
        parts: without a parameter in common.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> parts = torch.optim.SGD([layer.weight], lr=0.1), torch.optim.AdamW([layer.bias], lr=0.01)
        >>> [group["lr"] for group in Baseline(*parts).param_groups]
        [0.1, 0.01]
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {"skipped_steps": 0})
        self._parts = parts
        self._share()

    @property
    def skipped_steps(self) -> int:
        """Steps left out so far."""
        count: int = self.param_groups[0]["skipped_steps"]
        return count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parts, or none if a gradient is not finite."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        # The largest magnitude is NaN or infinite where any entry is.
        if not bool(get_total_norm(gradients, norm_type=float("inf")).isfinite()):
            for group in self.param_groups:
                group["skipped_steps"] += 1
            return loss
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, as every optimizer of torch does."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give the parts the groups and the states of the whole, which are then the same objects."""
        first = 0
        for part in self._parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last
