"""What an optimizer keeps of a parameter: made when it is first needed, and laid out as the parameter is."""

from typing import Any

import torch
from torch import Tensor

from htmuon._typing import Group
from htmuon.layouts import allocate, is_distributed, part
from htmuon.linalg.base import compute_dtype
from htmuon.optim.hindsight import LAST_UPDATE, NUMBERS, POWER, started
from htmuon.optim.momentum_rules import MOMENTUM_RULES

State = dict[str, Tensor]


def as_the_parameter() -> set[str]:
    """Names of state that is laid out as the parameter itself."""
    return {LAST_UPDATE, *(name for _, rule in MOMENTUM_RULES.items() for name in rule.buffers)}


def spectral_state(
    state: State,
    parameter: Tensor,
    shapes: dict[str, tuple[int, ...]],
    batch_dims: int,
    group: Group,
) -> State:
    """This rank's part of the state of a matrix parameter; a method of before leaves its own.

    Args:
        state: of the parameter; what is missing in it is allocated.
        parameter: the parameter.
        shapes: whole shapes by name, `momentum_buffer` among them.
        batch_dims: the parameter's first dims that count matrices.
        group: its settings.
    """
    like_it = as_the_parameter()
    for name in (*like_it, *NUMBERS):  # of a rule that it has no longer
        if name not in shapes:
            state.pop(name, None)
    for name, whole in shapes.items():
        if name in like_it and name not in state:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        if name in NUMBERS and name not in state:
            state[name] = started(name, group, parameter.device)
        # The state of a parameter that is now seen as other matrices starts from zero.
        if name not in state or tuple(state[name].shape) != whole:
            state[name] = allocate(parameter, whole, compute_dtype(parameter.dtype), batch_dims)
    return {name: part(state[name]) for name in shapes}


def adamw_state(state: State, parameter: Tensor) -> State:
    """The state of a parameter that takes AdamW; what is missing is allocated, and of its dtype as the kernel needs."""
    if "exp_avg" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if state["exp_avg"].dtype != parameter.dtype:  # a model that was cast
        state.update({name: state[name].to(parameter.dtype) for name in ("exp_avg", "exp_avg_sq")})
    return state


def check_state(saved: dict[str, Any], parameter: Tensor, shapes: dict[str, tuple[int, ...]], who: str) -> None:
    """Raise ValueError if a saved tensor has not the shape that it must have, or is not laid out as the parameter."""
    for name, shape in shapes.items():
        if name not in saved:
            continue
        if not isinstance(saved[name], Tensor):
            raise ValueError(f"{name} of {who} must be a tensor; the state_dict has {saved[name]!r}.")
        if not saved[name].is_floating_point():
            raise ValueError(f"{name} of {who} must be real floating point; the state_dict has {saved[name].dtype}.")
        if tuple(saved[name].shape) != shape:
            raise ValueError(
                f"{name} of {who} must have the shape {shape}; the state_dict has {tuple(saved[name].shape)}. It is "
                "the state of another model, or of another matrix_view."
            )
        if name in NUMBERS and saved[name].device.type != "meta" and not _is_possible(name, saved[name]):
            raise ValueError(
                f"{name} of {who} must be {'in [-1, 1]' if name == POWER else 'finite'}; the state_dict has "
                f"{saved[name].item()}. Remove it from the state_dict to start this parameter anew."
            )
        own, theirs = _placement(parameter), _placement(saved[name])
        # Statistics are placed in their own way; what has the parameter's shape is placed as it is.
        placed = (own is None) == (theirs is None) and (name not in as_the_parameter() or own == theirs)
        if not placed and name not in NUMBERS:  # which every rank has
            raise ValueError(
                f"{name} of {who} must be placed on the ranks as the parameter is ({own}); that of the state_dict is "
                f"{theirs}. Load it by set_optimizer_state_dict of torch.distributed.checkpoint.state_dict, which lays "
                "it out again."
            )


def _is_possible(name: str, number: Tensor) -> bool:
    return bool(number.abs() <= 1) if name == POWER else bool(number.isfinite())


def _placement(tensor: Tensor) -> str | None:
    """Where a DTensor is, in words; None for a plain tensor."""
    return f"{tuple(tensor.placements)} on {tuple(tensor.device_mesh.shape)}" if is_distributed(tensor) else None


def copied(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of a saved tensor beside a parameter, in the dtype in which it was saved."""
    if is_distributed(value):
        return value.clone()
    return laid_out_as(parameter, value.detach()).to(parameter.device, copy=True)


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of the parameter, where it has its shape."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
