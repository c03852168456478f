"""Processes that each hold the whole model: DistributedDataParallel."""

import inspect
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from htmuon.training.parallel import Parallel

T = TypeVar("T")
# Whether a forward pass sends the buffers of process 0 to the others; torch 2.13 renamed it.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if _RENAMED else "broadcast_buffers"


class DataParallel(Parallel):
    """Equal models on all processes; gradients are averaged, and the matrices divided among them in a step.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # For what the first process does while the others wait: tokenizing a text takes longer than a collective may.
        patient = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
        assert isinstance(patient, dist.ProcessGroup)
        self._patient = patient

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """All processes."""
        return dist.group.WORLD

    def wrap(self, model: torch.nn.Module, precision: str) -> torch.nn.Module:
        """The model, with gradients that are averaged during the backward pass."""
        devices = [self.device] if self.device.type == "cuda" else None
        # Statistics of batches are those of each process' own share.
        settings: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(model, device_ids=devices, **settings)

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model that was wrapped."""
        assert isinstance(model, DistributedDataParallel)
        module: torch.nn.Module = model.module
        return module

    def no_sync(self, model: torch.nn.Module) -> AbstractContextManager[object]:
        """Backward passes without an average."""
        assert isinstance(model, DistributedDataParallel)
        context: AbstractContextManager[object] = model.no_sync()
        return context

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        total = value.clone()
        dist.all_reduce(total)
        return total / self.size

    def agreed(self, value: T) -> T:
        """What process 0 has."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        dist.barrier(group=self._patient)

    def state(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state_dicts, which are the same on every process."""
        return self.unwrap(model).state_dict(), optimizer.state_dict()

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Load both, on every process."""
        self.unwrap(model).load_state_dict(weights)
        optimizer.load_state_dict(state)
