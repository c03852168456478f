"""A model of odd shapes, gradients that depend on the step alone, and the ways in which ranks can hold it."""

import copy
import functools
import math
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import htmuon
import htmuon.optim.base
import htmuon.optim.matrices
from htmuon.layouts import Single
from htmuon.optim.bracket import compiled

# Parameters that are frozen, never get a gradient, and get one at every third step.
FROZEN, NEVER, SOMETIMES = "frozen", "never", "sometimes"
OTHER = ("vector", "table")
# The rows of the parts of the fused weights, which no division among ranks respects: together, head by head, and
# alternating in every matrix of a stack.
PARTS: dict[str, Any] = {
    "fused": (6, 4, 4),
    "heads": htmuon.Interleaved(3, (3, 1, 1)),
    "experts_fused": htmuon.Interleaved(5, (1, 1)),
}


# Matrices without a signal at some steps: another expert each time, a part of the fused weight, and whole ones.
RESTING: dict[str, Callable[[int], Any]] = {
    "experts": lambda step: step % 5,
    "fused": lambda step: slice(6, 10) if step % 2 else slice(0, 0),
    "heads": lambda step: slice(3, None, 5) if step % 2 else slice(0, 0),
    "experts_fused": lambda step: (step % 5, slice(step % 2, None, 2)),
    "tall_1": lambda step: slice(None) if step % 3 == 1 else slice(0, 0),
    "wide_2": lambda step: slice(None) if step % 4 == 2 else slice(0, 0),
}


class Problem(nn.Module):
    """Parameters of every kind: matrices of odd shapes, with fewer rows than ranks, and fused; experts, a vector."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        shapes = {f"tall_{i}": (13, 5) for i in range(5)} | {f"wide_{i}": (6, 11) for i in range(3)}
        shapes |= {"single": (9, 9), "short": (3, 8), FROZEN: (5, 4), NEVER: (7, 4), SOMETIMES: (13, 5)}
        shapes |= {"experts": (5, 6, 4), "kernel": (6, 3, 3, 2), "vector": (10,), "table": (11, 4)}
        shapes |= {"fused": (14, 5), "heads": (15, 4), "experts_fused": (5, 10, 4)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter((torch.randn(shape, generator=draw) / 4).to(dtype)))
        self.get_parameter(FROZEN).requires_grad_(False)

    def groups(self) -> list[dict[str, Any]]:
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        fused = [{"params": [(name, p)], "use_muon": True, "split": PARTS[name]} for name, p in named if name in PARTS]
        return [
            {"params": [(name, p) for name, p in named if name not in (*OTHER, *PARTS)], "use_muon": True},
            {"params": [(name, p) for name, p in named if name in OTHER], "use_muon": False},
            *fused,
        ]


def build(name: str, model: Problem, **settings: Any) -> htmuon.HTMuon:
    return htmuon.OPTIMIZERS[name](model.groups(), lr=0.05, adamw_lr=0.01, weight_decay=0.1, **settings)


def gradient(name: str, shape: tuple[int, ...], step: int) -> Tensor | None:
    """The whole gradient of a parameter at a step: a few strong directions and a tail, as in training."""
    if name in (FROZEN, NEVER) or (name == SOMETIMES and step % 3):
        return None
    draw = torch.Generator().manual_seed(1000 * step + sum(map(ord, name)))
    noise = torch.randn(shape, generator=draw)
    if len(shape) < 2:
        return noise
    left, right = (torch.randn(*shape[:-2], size, 2, generator=draw) for size in shape[-2:])
    whole = left @ right.mT + 0.1 * noise
    if name in RESTING:
        whole[RESTING[name](step)] = 0.0
    return whole


def slice_like(whole: Tensor, parameter: Tensor) -> Tensor:
    """What `parameter`, if it is a DTensor, holds on this rank of a tensor that every rank has whole."""
    if not isinstance(parameter, DTensor):
        return whole
    mesh, placements = parameter.device_mesh, parameter.placements
    place = mesh.get_coordinate()
    assert place is not None
    local = whole
    # FSDP2 cuts what tensor parallelism has left. torch's own `compute_local_shape_and_global_offset` says otherwise
    # where the slices are of unequal length.
    for axis in sorted(range(mesh.ndim), key=lambda axis: isinstance(placements[axis], _StridedShard)):
        if not placements[axis].is_replicate():
            pieces = local.chunk(mesh.size(axis), placements[axis].dim)
            local = pieces[place[axis]] if place[axis] < len(pieces) else local.narrow(placements[axis].dim, 0, 0)
    stride = whole.stride()
    return DTensor.from_local(local.contiguous(), mesh, placements, run_check=False, shape=whole.shape, stride=stride)


def set_gradients(model: Problem, step: int) -> None:
    for name, p in model.named_parameters():
        whole = gradient(name, tuple(p.shape), step)
        p.grad = None if whole is None else slice_like(whole.to(p.dtype), p)


def train(model: Problem, optimizer: htmuon.HTMuon, steps: range) -> None:
    for step in steps:
        set_gradients(model, step)
        optimizer.step()


def _tensor_parallel(model: Problem, mesh: DeviceMesh) -> None:
    """Column-wise for tall and fused matrices, row-wise for wide ones, by experts, and whole for the rest."""
    for name, p in list(model.named_parameters()):
        dim = {"tall": 0, "fused": 0, "heads": 0, "wide": 1, "experts": 0}.get(name.partition("_")[0])
        placement = Replicate() if dim is None else Shard(dim)
        placed = distribute_tensor(p.detach(), mesh, [placement], src_data_rank=None)
        setattr(model, name, nn.Parameter(placed, requires_grad=p.requires_grad))


def _mesh(*sizes: int) -> DeviceMesh:
    """Made once, for every mesh makes groups of its own."""
    if sizes not in _meshes:
        _meshes[sizes] = init_device_mesh("cpu", sizes, mesh_dim_names=("outer", "inner")[: len(sizes)])
    return _meshes[sizes]


_meshes: dict[tuple[int, ...], DeviceMesh] = {}


def ddp(model: Problem) -> dict[str, Any]:
    return {"process_group": dist.group.WORLD}


def fsdp(model: Problem) -> dict[str, Any]:
    fully_shard(model, mesh=_mesh(dist.get_world_size()))
    return {}


def tensor_parallel(model: Problem) -> dict[str, Any]:
    _tensor_parallel(model, _mesh(dist.get_world_size()))
    return {}


def hsdp(model: Problem) -> dict[str, Any]:
    fully_shard(model, mesh=_mesh(2, dist.get_world_size() // 2))
    return {}


def fsdp_and_tensor_parallel(model: Problem, outer: int = 2) -> dict[str, Any]:
    mesh = _mesh(outer, dist.get_world_size() // outer)
    _tensor_parallel(model, mesh["inner"])
    fully_shard(model, mesh=mesh["outer"])
    return {}


def expert_parallel_and_fsdp(model: Problem) -> dict[str, Any]:
    """Experts divided along their number by one axis and cut by another, as torch does it; all else under FSDP2."""
    mesh = _mesh(2, dist.get_world_size() // 2)
    for name, p in list(model.named_parameters()):
        placement = Shard(0) if name.startswith("experts") else Replicate()
        placed = distribute_tensor(p.detach(), mesh["inner"], [placement], src_data_rank=None)
        setattr(model, name, nn.Parameter(placed, requires_grad=p.requires_grad))
    fully_shard(model, mesh=mesh["outer"], shard_placement_fn=lambda p: Shard(1) if p.ndim == 3 else Shard(0))
    return {}


# Each changes the parameters of a model and returns what the optimizer needs beside them.
LAYOUTS: dict[str, Callable[[Problem], dict[str, Any]]] = {
    f.__name__: f for f in (ddp, fsdp, tensor_parallel, hsdp, fsdp_and_tensor_parallel, expert_parallel_and_fsdp)
}
# Three ranks along one axis or the other: what one leaves of a dim is cut by the other into slices of unequal length.
UNEVEN: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "fsdp_2_tensor_parallel_3": functools.partial(fsdp_and_tensor_parallel, outer=2),
    "fsdp_3_tensor_parallel_2": functools.partial(fsdp_and_tensor_parallel, outer=3),
    "hsdp_2_3": hsdp,
    "fsdp_2_expert_parallel_3": expert_parallel_and_fsdp,
}


def alone(model: Problem) -> dict[str, Any]:
    return {}


EVERY = {**LAYOUTS, **UNEVEN, "alone": alone}


def error(model: Problem, reference: Problem) -> float:
    """The largest difference of what this rank holds to the parameters of a model that is whole; infinite for NaN."""
    gaps = [0.0]
    for name, p in model.named_parameters():
        expected = slice_like(reference.get_parameter(name).detach(), p)
        if isinstance(p, DTensor):
            p, expected = p.to_local(), expected.to_local()
        if p.numel():
            # A comparison with NaN is false: max() of floats would pass over it.
            gaps.append((p.detach() - expected).abs().max().nan_to_num(nan=math.inf).item())
    return max(gaps)


def trained_alike(
    layout: str, optimizer: str, steps: int = 10, dtype: torch.dtype = torch.float32, **settings: Any
) -> float:
    """The error, on this rank, of a run in a layout against the run on one device."""
    reference = Problem(dtype)
    train(reference, build(optimizer, reference, **settings), range(steps))
    model = Problem(dtype)
    extra = EVERY[layout](model)
    train(model, build(optimizer, model, **settings, **extra), range(steps))
    return error(model, reference)


def trained_with_held_powers(layout: str) -> float:
    """The same, with a power for each matrix that is set by hand after the first step."""
    reference, model = Problem(), Problem()
    settings = {"method": "eigh", "power_rule": "held"}
    for problem, extra in ((reference, {}), (model, EVERY[layout](model))):
        optimizer = build("htmuon", problem, **settings, **extra)
        train(problem, optimizer, range(1))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, p in enumerate(parameters):
            if "power" in optimizer.state[p]:
                optimizer.state[p]["power"].fill_(number / len(parameters))
        train(problem, optimizer, range(1, 4))
    return error(model, reference)


def sums_over_ranks(layout: str, small: int, **settings: Any) -> tuple[float, int]:
    """The error of a run in which matrices of `small` elements a rank are worked on one by one, and its all-reduces."""
    calls, reduce = [0], dist.all_reduce

    def count(*arguments: Any, **words: Any) -> Any:
        calls[0] += 1
        return reduce(*arguments, **words)

    with mock.patch.object(htmuon.optim.matrices, "SMALL", small), mock.patch.object(dist, "all_reduce", count):
        gap = trained_alike(layout, "htmuon", steps=4, method="eigh", **settings)
    return gap, calls[0]


def wrapped_late(layout: str) -> float:
    """The error of an optimizer that was made, and made a step, before its model was wrapped.

    Its groups get the new parameters in place, as frameworks do it that prepare a model and an optimizer together.
    """
    reference, model = Problem(), Problem()
    whole, optimizer = build("htmuon", reference, method="eigh"), build("htmuon", model, method="eigh")
    set_gradients(model, 0)
    optimizer.step()
    optimizer.zero_grad()
    model.load_state_dict(reference.state_dict())
    LAYOUTS[layout](model)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["params"] = [model.get_parameter(name) for name in group["param_names"]]
    train(model, optimizer, range(4))
    train(reference, whole, range(4))
    return error(model, reference)


def save(layout: str, optimizer: str, folder: str, steps: int, **settings: Any) -> None:
    """Train so many steps in a layout and store model and optimizer."""
    model = Problem()
    extra = EVERY[layout](model)
    trained = build(optimizer, model, **settings, **extra)
    train(model, trained, range(steps))
    weights, state = get_state_dict(model, trained)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def resumed_alike(layout: str, optimizer: str, folder: str, steps: range, **settings: Any) -> float:
    """The error of a run that goes on from a checkpoint in a layout, against one device without a break."""
    model = Problem()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    extra = EVERY[layout](model)
    trained = build(optimizer, model, **settings, **extra)
    weights, state = get_state_dict(model, trained)
    stored = {"model": weights, "optimizer": state}
    dcp.load(stored, checkpoint_id=folder)
    set_state_dict(model, trained, model_state_dict=stored["model"], optim_state_dict=stored["optimizer"])
    train(model, trained, steps)
    reference = Problem()
    whole = build(optimizer, reference, **settings)
    train(reference, whole, range(steps.stop))
    assert {int(group["steps_taken"]) for group in trained.param_groups} == {steps.stop}
    assert [group["power"] for group in trained.param_groups] == [group["power"] for group in whole.param_groups]
    return error(model, reference)


def told_without_gradients(late: bool) -> list[str]:
    """Of what an optimizer warns in two steps, if it was made before its model was sharded or after it."""
    model = Problem()
    early = build("htmuon", model)
    fsdp(model)
    optimizer = early if late else build("htmuon", model)
    set_gradients(model, 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
        optimizer.step()
    assert {Path(warning.filename) for warning in caught} <= {Path(__file__)}  # the line that calls `step`
    return [str(warning.message) for warning in caught]


def left_out() -> str:
    """What the constructor says on the rank that is not in the group of the first one."""
    first = dist.new_group([0])
    try:
        build("htmuon", Problem(), process_group=first)
    except ValueError as error:
        return str(error)
    return ""


def without_values() -> str:
    """What the constructor says of a sharded model that has not been materialized; it takes it when it has been."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    fully_shard(model, mesh=_mesh(dist.get_world_size()))
    try:
        htmuon.HTMuon(htmuon.param_groups(model))
    except ValueError as error:
        model.to_empty(device="cpu")
        for p in model.parameters():
            nn.init.ones_(p)
        optimizer = htmuon.HTMuon(htmuon.param_groups(model))
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        return str(error)
    return ""


def told_apart(change: str, rank: int) -> tuple[float, str]:
    """Train with one rank that differs from the others; the seconds until the error, and what it says."""
    model = Problem()
    settings: dict[str, Any] = {"momentum": 0.9} if dist.get_rank() == rank and change == "setting" else {}
    if dist.get_rank() == rank and change == "shape":
        model.single = nn.Parameter(torch.zeros(9, 8))
    if dist.get_rank() == rank and change == "missing":
        del model.short
    settings |= fsdp(model) if change == "setting" else ddp(model)
    optimizer = build("htmuon", model, **settings)
    set_gradients(model, 0)
    if dist.get_rank() == rank and change == "gradient":
        model.short.grad = None
    if dist.get_rank() == rank and change == "no gradients":
        optimizer.zero_grad()
    return _error_of(optimizer)


def _error_of(optimizer: htmuon.HTMuon) -> tuple[float, str]:
    began = time.perf_counter()
    try:
        optimizer.step()
    except ValueError as error:
        return time.perf_counter() - began, str(error)
    raise AssertionError("no error")


def gradient_missing_where_nobody_looks() -> str:
    """What a step says on this rank in which rank 1 lacks a gradient, if the host looks no more than it must."""
    model = Problem()
    optimizer = build("htmuon", model, **ddp(model))
    with mock.patch.object(htmuon.optim.base, "host_may_look", return_value=False):
        train(model, optimizer, range(5))  # `sometimes` comes and goes alike on all ranks
        set_gradients(model, 5)
        if dist.get_rank() == 1:
            model.wide_1.grad = None
        # The others would wait for rank 1, until their launcher ends them.
        with mock.patch.object(htmuon.HTMuon, "_prepared"):
            try:
                optimizer.step()
            except ValueError as error:
                return str(error)
    return ""


def gradient_missing_later() -> tuple[float, str]:
    """The seconds until the error of a step in which one rank lacks a gradient, and what it says."""
    model = Problem()
    optimizer = build("htmuon", model, **ddp(model))
    train(model, optimizer, range(2))
    set_gradients(model, 2)
    if dist.get_rank() == 1:
        model.wide_1.grad = None
    return _error_of(optimizer)


def poisoned(layout: str) -> tuple[float, int, int]:
    """What a step with a NaN on one rank moves, and its counters."""
    model = Problem()
    extra = LAYOUTS[layout](model)
    optimizer = build("htnormuon", model, **extra)
    set_gradients(model, 0)
    if dist.get_rank() == 1:  # the last one holds nothing of them
        for p in (model.experts, model.wide_0):
            local = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
            local.fill_(float("nan"))
    optimizer.step()
    group = optimizer.param_groups[0]
    return error(model, Problem()), int(group["steps_taken"]), int(group["skipped_steps"])


def copies() -> tuple[bool, bool]:
    """Whether a copy of an optimizer has its ranks, and whether a stored one has none."""
    optimizer = build("htmuon", Problem(), process_group=dist.group.WORLD)
    other = copy.deepcopy(optimizer)
    stored = pickle.loads(pickle.dumps(optimizer))
    return other.process_group is dist.group.WORLD, stored.process_group is None


class Even(nn.Module):
    """Matrices of two shapes, more of them than ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([nn.Parameter(torch.ones(16, 8)) for _ in range(12)])
        self.matrices += [nn.Parameter(torch.ones(8, 24)) for _ in range(8)]

    def groups(self) -> list[dict[str, Any]]:
        """One for each matrix: work is divided over all groups of a step."""
        return [{"params": [p], "use_muon": True} for p in self.parameters()]


def counted(layout: str) -> tuple[int, int]:
    """Elements that this rank sends to others in a step, and what it computes, in elements times short side."""
    model = Even()
    extra = LAYOUTS[layout](model)
    optimizer = htmuon.HTMuon(model.groups(), **extra)
    sent, done = [0], [0]
    exchange, tell, apply = dist.all_to_all_single, dist.broadcast, Single.apply

    def count_sent(received, given, there, here, group, async_op):
        sent[0] += sum(here) - here[group.rank()]
        return exchange(received, given, there, here, group=group, async_op=async_op)

    def count_told(rows, group, group_src, async_op):
        if group.rank() == group_src:
            sent[0] += rows.numel() * (group.size() - 1)
        return tell(rows, group=group, group_src=group_src, async_op=async_op)

    def count_done(self, stack, ledger):
        done[0] += stack.direction.numel() * min(stack.direction.shape[-2:])
        return apply(self, stack, ledger)

    with (
        mock.patch.object(dist, "all_to_all_single", count_sent),
        mock.patch.object(dist, "broadcast", count_told),
        mock.patch.object(Single, "apply", count_done),
    ):
        for p in model.parameters():
            p.grad = slice_like(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)), p)
        optimizer.step()
    return sent[0], done[0]


class Three(nn.Module):
    """Equal matrices, of which one of two ranks computes two."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([nn.Parameter(torch.eye(6, 4)) for _ in range(3)])


def compiled_alike(layout: str) -> tuple[float, int]:
    """The error of compiled brackets in a layout against eager ones on one device, and the forms compiled here."""
    compiled.cache_clear()
    reference, model = Three(), Three()
    extra = LAYOUTS[layout](model)
    # As for Inductor, without a C++ compiler.
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="aot_eager")):
        for trained, settings in ((reference, {}), (model, {"compile": True, **extra})):
            optimizer = htmuon.HTMuon(trained.parameters(), method=htmuon.linalg.Polynomial(levels=3), **settings)
            for step in range(3):
                for name, p in trained.named_parameters():
                    p.grad = slice_like(gradient(name, (6, 4), step), p)
                with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
                    optimizer.step()
    return error(model, reference), compiled.cache_info().currsize
