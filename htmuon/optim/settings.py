"""The settings of an optimizer: their names, types and ranges, checked before anything is stored."""

import math
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from htmuon._registry import unknown_name
from htmuon._typing import ADJUST_LR_FNS, MATRIX_VIEWS, AdjustLrFn, Normalization, Precision
from htmuon.layouts import is_flattened
from htmuon.linalg import check_method
from htmuon.optim.schedules import ScheduleDict, schedule_from_dict
from htmuon.optim.split import part_shapes
from htmuon.optim.views import MINIMUM_DIMS, default_view
from htmuon.spectral import MAPS, check_normalization, check_power

if TYPE_CHECKING:
    from htmuon.layouts.base import ProcessGroup

Group = dict[str, Any]

# The settings that say how a method computes; None is its default.
METHOD_SETTINGS = ("levels", "precision")


class ScaledSettings(TypedDict, total=False):
    """The keyword arguments of optimizers that choose their own update scale; `HTMuon` documents them."""

    power_schedule: ScheduleDict | None
    spectral_map: str
    momentum: float
    nesterov: bool
    weight_decay: float
    normalization: Normalization
    method: str
    levels: int | None
    precision: Precision | None
    compile: bool
    stack_elements: int | None
    adamw_lr: float | Tensor
    adamw_betas: tuple[float, float]
    adamw_eps: float
    adamw_weight_decay: float
    process_group: "ProcessGroup | None"


class Settings(ScaledSettings, total=False):
    """The keyword arguments that all other optimizers share."""

    adjust_lr_fn: AdjustLrFn | None


def check_number(name: str, value: object, low: float, high: float, remedy: str, *, below: bool = False) -> None:
    """Raise unless `value` is a number in [low, high], or in [low, high) where `below`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number; got {value!r} of type {type(value).__name__}. {remedy}")
    if not low <= value <= high or (below and value == high) or not math.isfinite(value):
        bounds = f"in [{low:g}, {high:g}{')' if below or math.isinf(high) else ']'}"
        raise ValueError(f"{name} must be {bounds}; got {value}. {remedy}")


def _check_learning_rate(lr: object) -> None:
    if isinstance(lr, Tensor):
        if lr.numel() != 1 or not lr.is_floating_point():
            raise TypeError(
                f"lr must be a number or a floating-point tensor of one element; got shape {tuple(lr.shape)} and dtype "
                f"{lr.dtype}. Pass a float such as 0.02."
            )
        return
    check_number("lr", lr, 0.0, math.inf, "Pass a float such as 0.02.")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False; got {value!r} of type {type(value).__name__}.")


def _check_count(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}. {remedy}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}. {remedy}")


def _check_spectral_settings(group: Group, *, sets_size: bool) -> None:
    """The settings of a group of matrices that depend on each other."""
    if group["spectral_map"] not in MAPS:
        raise unknown_name("spectral_map", group["spectral_map"], list(MAPS))
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in ADJUST_LR_FNS:
        raise unknown_name("adjust_lr_fn", group["adjust_lr_fn"], list(ADJUST_LR_FNS))
    schedule = group["power_schedule"]
    powers = [group["power"]] if schedule is None else list(schedule_from_dict(schedule).powers)
    for power in powers:
        check_power(power)
        function = MAPS[group["spectral_map"]](power)
        check_method(group["method"], function, levels=group["levels"], precision=group["precision"])
        check_normalization(group["normalization"], power=function.power)
        polar = schedule is None and not isinstance(power, Tensor) and function.power == 0
        if group["adjust_lr_fn"] == "match_rms_adamw" and not (sets_size or polar or group["normalization"] == "rms"):
            raise ValueError(
                "adjust_lr_fn='match_rms_adamw' needs an update of known Frobenius norm, which normalization="
                f"{group['normalization']!r} does not give with spectral_map={group['spectral_map']!r}, power={power}. "
                "Use normalization='rms'."
            )


def check_settings(group: Group, *, sets_size: bool) -> None:
    """Raise TypeError or ValueError, with a remedy, unless every setting of a group is valid.

    Args:
        group: a parameter group with every key.
        sets_size: whether the optimizer's adaptation fixes the size of the update itself.
    """
    _check_flag("use_muon", group["use_muon"])
    _check_flag("nesterov", group["nesterov"])
    _check_flag("compile", group["compile"])
    if group["stack_elements"] is not None:
        _check_count("stack_elements", group["stack_elements"], "Pass a whole number such as 2**24.")
    _check_learning_rate(group["lr"])
    check_number("weight_decay", group["weight_decay"], 0.0, math.inf, "Pass a float such as 0.1.")
    check_number("momentum", group["momentum"], 0.0, 1.0, "Pass a float such as 0.95.", below=True)
    check_number("eps", group["eps"], 0.0, math.inf, "Pass a float such as 1e-10.")
    betas = group["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers; got {betas!r}. Pass (0.9, 0.95).")
    for beta in betas:
        check_number("betas", beta, 0.0, 1.0, "Pass (0.9, 0.95).", below=True)
    if "beta2" in group:
        check_number("beta2", group["beta2"], 0.0, 1.0, "Pass a float such as 0.95.", below=True)
    view = group["matrix_view"]
    if view is not None and view not in MATRIX_VIEWS:
        raise unknown_name("matrix_view", view, list(MATRIX_VIEWS))
    split = group["split"]
    if split is not None and (isinstance(split, str | bool) or not isinstance(split, int | tuple | list)):
        raise TypeError(f"split must be None, a number of equal parts or a list of sizes; got {split!r}.")
    if group["use_muon"]:
        _check_spectral_settings(group, sets_size=sets_size)


def check_shaped(parameter: Tensor, who: str) -> None:
    """Raise if a parameter belongs to a lazy module that has not seen a batch."""
    if is_lazy(parameter):
        raise ValueError(
            f"parameters must have a shape; got {who} of a lazy module that has seen no batch. Run one batch through "
            "the model first."
        )


def check_parameters(group: Group) -> None:
    """Raise unless the parameters of a group are such that its rule can update them."""
    names = group.get("param_names") or [None] * len(group["params"])
    for name, parameter in zip(names, group["params"], strict=True):
        who = f"parameter {name!r}" if name else "a parameter"
        check_shaped(parameter, who)
        shape = tuple(parameter.shape)
        if is_flattened(parameter):
            raise ValueError(
                f"parameters must not be flattened, as FullyShardedDataParallel does; got {who} of shape {shape}, "
                "which is a slice of no matrix. Wrap the model by torch.distributed.fsdp.fully_shard instead."
            )
        if parameter.is_meta:
            raise ValueError(
                f"parameters must have values; got {who} of shape {shape} on the meta device. Call model.to_empty("
                "device=...), initialize the weights, and make the optimizer after that."
            )
        if parameter.is_complex() or not parameter.is_floating_point():
            raise TypeError(f"parameters must be real floating point; got {who} of dtype {parameter.dtype}.")
        if not group["use_muon"]:
            continue
        view = group["matrix_view"] or default_view(parameter.ndim)
        if parameter.ndim < MINIMUM_DIMS[view]:
            raise ValueError(
                f"a group of matrices with matrix_view={view!r} needs parameters of {MINIMUM_DIMS[view]} or more "
                f"dimensions; got {who} of shape {shape}. Put it into a group with use_muon=False, or let "
                "htmuon.param_groups(model) sort the parameters."
            )
        try:
            part_shapes(shape, view, group["split"])
        except ValueError as error:
            raise ValueError(f"{who} of shape {shape}: {error}") from None


def check_gradients(parameters: list[Tensor]) -> None:
    """Raise unless the gradients that are there are dense."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise ValueError(
                f"gradients must be dense; got layout {parameter.grad.layout} for a parameter of shape "
                f"{tuple(parameter.shape)}. Build the embedding with sparse=False, or give it to "
                "torch.optim.SparseAdam."
            )


def completed(given: Group, defaults: Group) -> Group:
    """A group with the defaults of what it leaves out; settings of a method don't follow into another method."""
    other = given.get("method", defaults["method"]) != defaults["method"]
    return {**defaults, **(dict.fromkeys(METHOD_SETTINGS) if other else {}), **given}
