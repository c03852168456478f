"""What the loop needs to know of a task: a network, a training loss, an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

TaskKind = str  # "language", "images"


@dataclass(frozen=True)
class Evaluation:
    """What held-out data says about a network.

    Args:
        loss: mean cross-entropy in nats per token, or per image.
        accuracy: share of the images that are classified rightly, from 0 to 1; None for a task without classes.
    """

    loss: float
    accuracy: float | None = None


# Inputs and targets of one forward pass, on the device.
Batch = tuple[Tensor, Tensor]
# torch.nn.functional.cross_entropy leaves out targets of this value.
NO_TARGET = -100


class Task(Protocol):
    """Data on a device, and what is learned from it."""

    @property
    def chance_loss(self) -> float:
        """The loss of a uniform guess, less what a mean of float32 logarithms can be off."""

    @property
    def unreadable_samples(self) -> int:
        """How many samples the run met and could not read."""

    def state_dict(self) -> dict[str, Any]:
        """What the batches to come depend on beside their numbers, as plain JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned after the batch before the next one."""

    def fetch(self, index: int) -> Batch:
        """Training batch number `index`, the one after that of the call before; it depends on data, seed and number."""

    def training_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean loss, 0-d, of a batch."""

    def evaluate(self, model: torch.nn.Module) -> Evaluation:
        """The quality of `model` on the held-out data of the run."""


class IndexedTask:
    """The state of a task that can make any batch from its number: the names of the samples that it could not read."""

    unreadable: list[str]

    @property
    def unreadable_samples(self) -> int:
        """How many samples the run met and could not read."""
        return len(self.unreadable)

    def state_dict(self) -> dict[str, Any]:
        """The names of those samples."""
        return {"unreadable": self.unreadable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.unreadable = state["unreadable"]


class TaskSource(Protocol):
    """The data of a run as it is stored, from which its network and its task are made."""

    @property
    def fingerprint(self) -> str:
        """Identifies the data."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions, beside torch, whose versions can decide the result."""

    def build_model(self) -> torch.nn.Module:
        """The network with its initial weights, on the CPU; equal settings, data and seeds give equal weights."""

    def open(self, device: torch.device, cache: Path, on_message: Callable[[str], None]) -> Task:
        """The task, with its data on `device`; what is costly to prepare is kept in the folder `cache`."""
