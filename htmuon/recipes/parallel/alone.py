"""One process."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Alone:
    """A process that trains by itself."""

    rank, size = 0, 1
    whole = True
    process_group = None

    def wrap(self, model: torch.nn.Module, precision: str) -> torch.nn.Module:
        """The model."""
        return model

    def inner(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model."""
        return model

    def gradients_stay(self, model: torch.nn.Module) -> AbstractContextManager[object]:
        """Nothing to hold back."""
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def agreed(self, value: T) -> T:
        """The value."""
        return value

    def wait(self) -> None:
        """Nobody to wait for."""

    def state(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state_dicts."""
        return model.state_dict(), optimizer.state_dict()

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Load both."""
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
