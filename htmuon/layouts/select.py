"""The layout of a tensor: a DTensor says by itself how it is laid out, a plain tensor is whole."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from htmuon.layouts.base import Layout
from htmuon.layouts.single import Single, slice_lengths

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement


def is_distributed(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor; torch.distributed.tensor is not imported for the answer."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def several_processes() -> bool:
    """Whether this process trains together with others, as far as torch.distributed knows."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_flattened(tensor: Tensor) -> bool:
    """Whether FSDP1 has cut it out of a flat vector of many parameters; torch marks such parameters."""
    return bool(getattr(tensor, "_fsdp_flattened", False))


def part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_distributed(tensor) else tensor


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """What this rank holds of a gradient, laid out as its parameter is."""
    if is_distributed(tensor) and is_distributed(parameter) and tensor.placements != parameter.placements:
        tensor = tensor.redistribute(parameter.device_mesh, parameter.placements)
    return part(tensor)


def slice_like(
    whole: Tensor, parameter: Tensor, *, batch_dims: int | None = None, first: int = 0, last: int | None = None
) -> Tensor:
    """What this rank holds of a plain tensor that every rank has whole, as a view; a length of 1 stands for any.

    Args:
        whole: as long as the parameter along each dim, or as a state `[*batch, x, y]` where `batch_dims` is given.
        parameter: how it is divided.
        batch_dims: the parameter's first dims that count matrices, for what is divided as a state is.
        first: how many dims stand before those.
        last: only so many dims of the parameter are looked at.
    """
    if not is_distributed(parameter):
        return whole
    for axis in _divisions(parameter.device_mesh, tuple(parameter.placements)):
        dim = first + (axis.dim if batch_dims is None else _state_dim(axis.dim, batch_dims))
        if (last is None or axis.dim < last) and whole.shape[dim] > 1:
            lengths = slice_lengths(whole.shape[dim], axis.ranks)
            whole = whole.narrow(dim, sum(lengths[: axis.rank]), lengths[axis.rank])
    return whole


def allocate(parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype, batch_dims: int) -> Tensor:
    """A zero state of the given whole shape beside a parameter, divided among the ranks as far as the parameter is."""
    if not is_distributed(parameter):
        return torch.zeros(shape, dtype=dtype, device=parameter.device)
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, tuple(parameter.placements)
    local = list(shape)
    for axis in _divisions(mesh, placements):
        dim = _state_dim(axis.dim, batch_dims)
        local[dim] = slice_lengths(local[dim], axis.ranks)[axis.rank]
    return DTensor.from_local(
        torch.zeros(local, dtype=dtype, device=parameter.device),
        mesh,
        [_of_state(placement, batch_dims) for placement in placements],
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )


class Layouts:
    """How the ranks hold the parameters of one optimizer.

    Args:
        process_group: ranks that hold the same plain tensors and divide the work on them.

    Raises:
        TypeError: that is no process group.
        ValueError: this rank is not in it.
    """

    def __init__(self, process_group: "ProcessGroup | None") -> None:
        if process_group is not None:
            _check_group(process_group)
        self._process_group = process_group
        self._plain = _plain_layout(process_group)
        # Not shared between optimizers: meshes are equal that have groups of another life of the process group.
        self._known: dict[tuple[DeviceMesh, tuple[Placement, ...], int], Layout] = {}

    def of(self, tensor: Tensor, batch_dims: int) -> Layout:
        """The layout of a parameter.

        Args:
            tensor: the parameter.
            batch_dims: its first dims that count matrices, as those of stacked experts do; slices of them hold whole
                matrices and stay where they are.

        Raises:
            ValueError: a DTensor's placement is none that a parameter can have.
        """
        if is_distributed(tensor):
            key = tensor.device_mesh, tuple(tensor.placements), batch_dims
            if key not in self._known:
                self._known[key] = _distributed_layout(*key)
            return self._known[key]
        return self._plain

    def groups(self, tensors: Sequence[Tensor]) -> "tuple[ProcessGroup, ...]":
        """The groups of ranks that hold some parameters together.

        Asked at every step and not remembered: whoever wraps a model may put new parameters in place of those of a
        parameter group.
        """
        distributed = [tensor for tensor in tensors if is_distributed(tensor)]
        plain = self._plain.groups if len(distributed) < len(tensors) else ()
        meshes = dict.fromkeys(tensor.device_mesh for tensor in distributed)
        axes = ((mesh, axis) for mesh in meshes for axis in range(mesh.ndim) if mesh.size(axis) > 1)
        return tuple(dict.fromkeys([*plain, *(mesh.get_group(axis) for mesh, axis in axes)]))


def _check_group(process_group: object) -> None:
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(
            "this rank must be a member of process_group; got GroupMember.NON_GROUP_MEMBER, which new_group returns on "
            "the ranks that it leaves out. Pass the group that this rank is in, or None to compute all matrices here."
        )
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            f"process_group must be a ProcessGroup, torch.distributed.group.WORLD for instance; got {process_group!r}."
        )


def _plain_layout(process_group: "ProcessGroup | None") -> Layout:
    if process_group is None or process_group.size() == 1:
        return Single()
    from htmuon.layouts.replicated import Replicated

    return Replicated(process_group, Single())


@dataclass(frozen=True)
class _Division:
    """An axis of a mesh that divides a dim among `ranks`, of which this process is number `rank`."""

    axis: int
    dim: int
    ranks: int
    rank: int


def _divisions(mesh: "DeviceMesh", placements: "tuple[Placement, ...]") -> list[_Division]:
    """The axes that divide a parameter, in the order in which they did.

    FSDP2 divides what tensor parallelism has left of a dim, and torch marks it by a placement with a split factor.
    """
    coordinates = mesh.get_coordinate()
    assert coordinates is not None, "a parameter on a mesh that this rank is not in"
    sharded = [axis for axis, placement in enumerate(placements) if not placement.is_replicate()]
    order = sorted(sharded, key=lambda axis: hasattr(placements[axis], "split_factor"))
    dims: dict[int, int] = {axis: placements[axis].dim for axis in order}  # type: ignore[attr-defined]
    return [_Division(axis, dims[axis], mesh.size(axis), coordinates[axis]) for axis in order]


def _state_dim(dim: int, batch_dims: int) -> int:
    """The dim of a state `[*batch, x, y]` that is divided where the parameter's is: every state has its first ones."""
    return min(dim, batch_dims)


def _of_state(placement: "Placement", batch_dims: int) -> "Placement":
    if placement.is_replicate():
        return placement
    dim = _state_dim(placement.dim, batch_dims)  # type: ignore[attr-defined]
    if hasattr(placement, "split_factor"):
        return type(placement)(dim, split_factor=placement.split_factor)  # type: ignore[call-arg]
    return type(placement)(dim)  # type: ignore[call-arg]


def _distributed_layout(mesh: "DeviceMesh", placements: "tuple[Placement, ...]", batch_dims: int) -> Layout:
    from htmuon.layouts.replicated import Replicated
    from htmuon.layouts.sharded import Sharded, Slicing

    for number, placement in enumerate(placements):
        if placement.is_partial() or not (placement.is_replicate() or hasattr(placement, "dim")):
            raise ValueError(
                f"a parameter that is a DTensor must be sharded or replicated along every axis of its mesh; got "
                f"{placement} on axis {number}. Use fully_shard or parallelize_module, which make such parameters."
            )
    divisions = _divisions(mesh, placements)
    batches = [axis for axis in divisions if axis.dim < batch_dims]
    layout: Layout = Single(
        batch=tuple((axis.dim, axis.ranks, axis.rank) for axis in batches),
        groups=tuple(mesh.get_group(axis.axis) for axis in batches),
    )
    cut = [axis for axis in divisions if axis.dim >= batch_dims]
    for position, axis in enumerate(cut):
        earlier = cut[:position]
        same = tuple((other.ranks, other.rank) for other in earlier if other.dim == axis.dim)
        all_earlier = tuple((other.ranks, other.rank) for other in earlier)
        layout = Sharded(mesh.get_group(axis.axis), Slicing(axis.dim, same), Slicing(batch_dims, all_earlier), layout)
    for number, placement in enumerate(placements):
        # Outermost: of what is replicated only a share is assembled.
        if placement.is_replicate() and mesh.size(number) > 1:
            layout = Replicated(mesh.get_group(number), layout)
    return layout
