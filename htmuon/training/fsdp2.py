"""Processes that each hold a slice of every parameter: FSDP2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from htmuon.training.ddp import DataParallel

_SEQUENCES = (torch.nn.ModuleList, torch.nn.Sequential)


class FullySharded(DataParallel):
    """Parameters, gradients and the optimizer's state in slices, put together block by block where they are needed."""

    whole = False

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """None: a sharded parameter says by itself who holds it."""
        return None

    def wrap(self, model: torch.nn.Module, precision: str) -> torch.nn.Module:
        """The model, its blocks sharded one by one and then what is left."""
        mesh = init_device_mesh(self.device.type, (self.size,))
        # Weights stay float32; what is gathered for a forward pass is of the precision it computes in.
        compute = torch.bfloat16 if precision == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        for block in blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        return model

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model: it was changed in place."""
        return model

    @contextmanager
    def no_sync(self, model: torch.nn.Module) -> Iterator[None]:
        """Backward passes without a reduction."""
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    def state(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state_dicts with whole tensors, on the CPU; those of other processes than the first have no tensors."""
        first = self.rank == 0
        return _whole(model.state_dict(), first), _whole(optimizer.state_dict(), first)

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Give each process its slices."""
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
        mesh = next(p.device_mesh for p in model.parameters() if isinstance(p, DTensor))
        slices = {index: _sliced(kept, mesh) for index, kept in state["state"].items()}
        optimizer.load_state_dict({**state, "state": slices})


def blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The parts of a model that follow each other: what its outermost lists and sequences hold.

    Example:
        >>> stage = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 3))
        >>> list(blocks(torch.nn.ModuleDict({"stage": stage, "head": torch.nn.Linear(3, 4)})))
        [Linear(in_features=2, out_features=2, bias=True), Linear(in_features=2, out_features=3, bias=True)]
    """
    for child in module.children():
        if not isinstance(module, _SEQUENCES) or isinstance(child, _SEQUENCES):
            yield from blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _whole(value: Any, keep: bool) -> Any:
    """A state_dict with whole tensors in place of slices, or with none; every process takes part."""
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, dict):
        return {key: _whole(item, keep) for key, item in value.items()}
    return [_whole(item, keep) for item in value] if isinstance(value, list) else value


def _sliced(state: dict[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """The state of one parameter in slices along the first dim, as FSDP2 has the parameter."""
    return {
        name: distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)
        if isinstance(value, Tensor) and value.ndim > 0
        else value
        for name, value in state.items()
    }
