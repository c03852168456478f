"""The layout of a tensor: a DTensor says by itself how it is laid out, a plain tensor is whole."""

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from htmuon.layouts.base import Layout
from htmuon.layouts.single import Single

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement


def is_distributed(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor; torch.distributed.tensor is not imported for the answer."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_flattened(tensor: Tensor) -> bool:
    """Whether FSDP1 has cut it out of a flat vector of many parameters; torch marks such parameters."""
    return bool(getattr(tensor, "_fsdp_flattened", False))


def layout_of(tensor: Tensor, batch_dims: int, process_group: "ProcessGroup | None") -> Layout:
    """How the ranks hold a parameter.

    Args:
        tensor: the parameter.
        batch_dims: its first dims that count matrices, as those of stacked experts do; slices of them hold whole
            matrices and stay where they are.
        process_group: ranks that hold the same plain tensors and divide the work on them.

    Raises:
        ValueError: a DTensor's placement is none that a parameter can have.
    """
    if is_distributed(tensor):
        return _distributed_layout(tensor.device_mesh, tuple(tensor.placements), batch_dims)
    if process_group is None or process_group.size() == 1:
        return Single()
    from htmuon.layouts.replicated import Replicated

    return Replicated(process_group, Single())


def part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_distributed(tensor) else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this rank holds of a gradient, laid out as its parameter is."""
    if is_distributed(tensor) and is_distributed(parameter) and tensor.placements != parameter.placements:
        tensor = tensor.redistribute(parameter.device_mesh, parameter.placements)
    return part(tensor)


def allocate(parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype, batch_dims: int) -> Tensor:
    """A zero state of the given whole shape beside a parameter, divided among the ranks as far as the parameter is."""
    if not is_distributed(parameter):
        return torch.zeros(shape, dtype=dtype, device=parameter.device)
    from torch.distributed.tensor import zeros

    placements = [_of_state(placement, batch_dims) for placement in parameter.placements]
    return zeros(shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=placements)


def _of_state(placement: "Placement", batch_dims: int) -> "Placement":
    """Sliced where the parameter is, along the first dim: every state has that, whatever its shape."""
    if placement.is_replicate():
        return placement
    dim: int = placement.dim  # type: ignore[attr-defined]
    if dim < batch_dims:
        return placement
    if hasattr(placement, "split_factor"):
        return type(placement)(0, split_factor=placement.split_factor)  # type: ignore[call-arg]
    return type(placement)(0)  # type: ignore[call-arg]


@lru_cache(maxsize=1024)
def _distributed_layout(mesh: "DeviceMesh", placements: "tuple[Placement, ...]", batch_dims: int) -> Layout:
    from htmuon.layouts.replicated import Replicated
    from htmuon.layouts.sharded import Sharded, Slicing

    sharded = {}
    for axis, placement in enumerate(placements):
        if placement.is_partial() or not (placement.is_replicate() or hasattr(placement, "dim")):
            raise ValueError(
                f"a parameter that is a DTensor must be sharded or replicated along every axis of its mesh; got "
                f"{placement} on axis {axis}. Use fully_shard or parallelize_module, which make such parameters."
            )
        if not placement.is_replicate():
            sharded[axis] = placement
    # Axes in the order in which they divided the parameter: FSDP2 divides what tensor parallelism has left of a dim,
    # and torch marks it by a placement with a split factor.
    order = sorted(sharded, key=lambda axis: hasattr(sharded[axis], "split_factor"))
    coordinates = mesh.get_coordinate()
    assert coordinates is not None
    divisions = {axis: (mesh.size(axis), coordinates[axis]) for axis in order}
    dims: dict[int, int] = {axis: sharded[axis].dim for axis in order}  # type: ignore[attr-defined]
    layout: Layout = Single(tuple((dims[axis], *divisions[axis]) for axis in order if dims[axis] < batch_dims))
    for position, axis in enumerate(order):
        if dims[axis] < batch_dims:
            continue
        earlier = order[:position]
        same = tuple(divisions[other] for other in earlier if dims[other] == dims[axis])
        first = tuple(divisions[other] for other in earlier if dims[other] == 0 or dims[other] >= batch_dims)
        layout = Sharded(mesh.get_group(axis), Slicing(dims[axis], same), Slicing(0, first), layout)
    for axis, placement in enumerate(placements):
        # Outermost: of what is replicated only a share is assembled.
        if placement.is_replicate() and mesh.size(axis) > 1:
            layout = Replicated(mesh.get_group(axis), layout)
    return layout
