"""The settings of an optimizer: their names, types and ranges, checked before anything is stored."""

from collections.abc import Iterable

import torch
from torch import Tensor

from htmuon._checks import check_flag, check_learning_rate, check_number, known, plain
from htmuon._registry import unknown_name
from htmuon._typing import ADJUST_LR_FNS, MATRIX_VIEWS, Group
from htmuon.layouts import is_flattened, part
from htmuon.linalg import check_method
from htmuon.optim.choices import without_objects
from htmuon.optim.memory import overlaps
from htmuon.optim.momentum_rules import MOMENTUM_RULES
from htmuon.optim.named import part_of
from htmuon.optim.power_rules import power_rule_of, powers_of
from htmuon.optim.rate_rules import rate_rule_of
from htmuon.optim.schedules import schedule_from_dict
from htmuon.optim.weight_updates import MOST_INDEPENDENT, WEIGHT_UPDATES, Independent
from htmuon.routing.split import part_shapes, split_of
from htmuon.routing.views import MINIMUM_DIMS, check_shaped, default_view
from htmuon.spectral import check_normalization, check_power, map_of

# What a group with `use_muon=False` uses; all else it holds too, unused, so that every key is in every group.
ADAMW_SETTINGS = ("use_muon", "lr", "betas", "eps", "weight_decay")
# What a group holds that is no setting.
NOT_SETTINGS = ("params", "param_names")
# What a step counts in every group. `step` is left to wrappers, some of which count there.
COUNTERS = ("steps_taken", "skipped_steps")


def check_beta2(value: object) -> None:
    """Raise unless `value` is a decay of second moments, in [0, 1)."""
    check_number("beta2", value, below=1.0, remedy="Pass a float such as 0.95.")


def make_plain(group: Group, names: Iterable[str]) -> None:
    """Write settings in Python's own types; a map that is an object leaves its exponent as the power.

    Two may be tensors: a learning rate, as in torch, and on an accelerator a power, which the host does not read.
    """
    group.update(without_objects(group))
    for name in names:
        value = group.get(name)
        if type(value) in (float, int, bool, str) or value is None:
            continue
        if isinstance(value, Tensor) and (name == "lr" or (name == "power" and _moves(group, value))):
            continue
        group[name] = plain(value)


def _moves(group: Group, power: Tensor) -> bool:
    """Whether a power is one that a schedule has written, or that the host must not read."""
    return group.get("power_schedule") is not None or known(power) is None


def check_sides(group: Group, prefix: str = "", *, wait: bool = False) -> None:
    """Raise unless the settings that both sides have are valid.

    Args:
        group: with these settings.
        prefix: of their names, as the user knows them.
        wait: whether to read a learning rate from an accelerator, which a step must not.
    """
    check_learning_rate(f"{prefix}lr", group["lr"], wait=wait)
    check_number(f"{prefix}weight_decay", group["weight_decay"], remedy="Pass a float such as 0.1.")
    check_number(f"{prefix}eps", group["eps"], remedy=f"Pass a float such as {1e-10 if prefix else 1e-7}.")


def _check_count(name: str, value: object, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number; got {value!r} of type {type(value).__name__}. {remedy}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}. {remedy}")


def _check_spectral_settings(group: Group, *, sets_size: bool) -> None:
    """The settings of a group of matrices that depend on each other."""
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in ADJUST_LR_FNS:
        raise unknown_name("adjust_lr_fn", group["adjust_lr_fn"], list(ADJUST_LR_FNS))
    schedule, rule = group["power_schedule"], power_rule_of(group["power_rule"])
    powers = [group["power"]] if schedule is None else list(schedule_from_dict(schedule).powers)
    if rule is not None:
        _check_power_rule(group)
        powers += powers_of(rule)
    for power in powers:
        check_power(power)
        function = map_of(group["spectral_map"], power)
        check_method(group["method"], function)
        check_normalization(group["normalization"], power=function.power)
        polar = len(powers) == 1 and not isinstance(power, Tensor) and function.power == 0
        known_size = sets_size or polar or group["normalization"] == "rms"
        known_size = known_size or (group["normalization"] == "auto" and (rule or _is_negative(function.degree)))
        if group["adjust_lr_fn"] == "match_rms_adamw" and not known_size:
            raise ValueError(
                "adjust_lr_fn='match_rms_adamw' needs an update of known Frobenius norm, which normalization="
                f"{group['normalization']!r} does not give with spectral_map={group['spectral_map']!r}, power={power}. "
                "Use normalization='rms'."
            )


def _check_power_rule(group: Group) -> None:
    """Raise unless each matrix can have a power of its own."""
    if group["power_schedule"] is not None:
        raise ValueError(
            f"power_rule must be None beside a power_schedule; got {group['power_rule']!r} and "
            f"{group['power_schedule']!r}, which both set the power. Pass power_schedule=None."
        )
    if group["normalization"] not in ("auto", "rms"):
        raise ValueError(
            "power_rule needs updates of one size at every power; got normalization="
            f"{group['normalization']!r}, which would make a power a rate. Use 'rms', or 'auto', which is that here."
        )
    try:
        map_of(group["spectral_map"], torch.empty(1, device="meta"))
    except TypeError:
        raise ValueError(
            "power_rule must be None with a spectral_map that takes one power for all matrices; got "
            f"{group['power_rule']!r} with {group['spectral_map']!r}. Use spectral_map='power'."
        ) from None
    rule, start = power_rule_of(group["power_rule"]), known(group["power"])
    assert rule is not None
    low, high = powers_of(rule)
    if start is not None and not low <= start <= high:
        raise ValueError(
            f"power must lie in the range of its power_rule, [{low}, {high}], in which every matrix starts at it; got "
            f"{start}. Pass another power, or a rule with a wider range: htmuon.optim.PowerAlignment(lowest={low:g}, "
            f"highest={high:g})."
        )


def _is_negative(degree: float | Tensor) -> bool:
    return not isinstance(degree, Tensor) and degree < 0


def check_settings(group: Group, *, sets_size: bool, wait: bool = False) -> None:
    """Raise TypeError or ValueError, with a remedy, unless every setting of a group is valid.

    Args:
        group: a parameter group with every key.
        sets_size: whether the optimizer's adaptation fixes the size of the update itself.
        wait: whether to read a learning rate from an accelerator, which a step must not.
    """
    for name in ("levels", "precision"):
        if name in group:
            raise ValueError(
                f"{name} is a setting of a method; got {name}={group[name]!r} as one of a group, as before 0.1.0. "
                "Pass method=htmuon.linalg.Polynomial(levels=8, precision='bfloat16'), say."
            )
    check_flag("use_muon", group["use_muon"])
    check_flag("nesterov", group["nesterov"])
    check_flag("compile", group["compile"])
    if group["stack_elements"] is not None:
        _check_count("stack_elements", group["stack_elements"], "Pass a whole number such as 2**24.")
    check_sides(group, wait=wait)
    betas = group["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers; got {betas!r}. Pass (0.9, 0.95).")
    for beta in betas:
        check_number("betas", beta, below=1.0, remedy="Pass (0.9, 0.95).")
    check_number("momentum", group["momentum"], below=1.0, remedy="Pass a float such as 0.95.")
    part_of(MOMENTUM_RULES, group["momentum_rule"])
    if isinstance(part_of(WEIGHT_UPDATES, group["weight_update"]), Independent) and group["use_muon"]:
        remedy = "Pass the share of the weights that goes at each step, such as 2e-3, or weight_update='decoupled'."
        name = "weight_decay with weight_update='independent'"
        check_number(name, group["weight_decay"], most=MOST_INDEPENDENT, remedy=remedy)
    rate_rule_of(group["rate_rule"])
    power_rule_of(group["power_rule"])
    view = group["matrix_view"]
    if view is not None and view not in MATRIX_VIEWS:
        raise unknown_name("matrix_view", view, list(MATRIX_VIEWS))
    if group["split"] is not None:
        split_of(group["split"])
    if group["use_muon"]:
        _check_spectral_settings(group, sets_size=sets_size)


def flattened(who: str, shape: tuple[int, ...]) -> ValueError:
    """The error for a parameter of which a wrapper has left a slice of a flat vector."""
    return ValueError(
        "parameters must not be flattened, as FullyShardedDataParallel and DeepSpeed's ZeRO do; got "
        f"{who} of shape {shape}, which is a slice of no matrix. Wrap the model by torch.distributed.fsdp.fully_shard "
        "instead, and make the optimizer after that."
    )


def check_parameters(group: Group) -> None:
    """Raise unless the parameters of a group are such that its rule can update them."""
    names = group.get("param_names") or [None] * len(group["params"])
    for name, parameter in zip(names, group["params"], strict=True):
        who = f"parameter {name!r}" if name else "a parameter"
        check_shaped(parameter, who)
        shape = tuple(parameter.shape)
        if is_flattened(parameter):
            raise flattened(who, shape)
        if parameter.is_meta:
            raise ValueError(
                f"parameters must have values; got {who} of shape {shape} on the meta device. Call model.to_empty("
                "device=...), initialize the weights, and make the optimizer after that."
            )
        if parameter.is_complex() or not parameter.is_floating_point():
            raise TypeError(f"parameters must be real floating point; got {who} of dtype {parameter.dtype}.")
        if overlaps(part(parameter)):
            raise ValueError(
                f"parameters must not share memory among their own elements, as an expanded tensor does; got {who} of "
                f"shape {shape} with strides {parameter.stride()}. Make it from a copy: Parameter(tensor.clone())."
            )
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


def check_step(groups: Iterable[Group]) -> None:
    """Raise unless the gradients that are there are dense, and matrices are still matrices."""
    for group in groups:
        least = 2 if group["use_muon"] else 0
        for number, parameter in enumerate(group["params"]):
            if parameter.ndim < least:
                names = group.get("param_names")
                who = f"parameter {names[number]!r}" if names else "a matrix parameter"
                raise flattened(who, tuple(parameter.shape))
            gradient = parameter.grad
            if gradient is not None and gradient.layout != torch.strided:
                raise ValueError(
                    f"gradients must be dense; got layout {gradient.layout} for a parameter of shape "
                    f"{tuple(parameter.shape)}. Build the embedding with sparse=False, or give it to "
                    "torch.optim.SparseAdam."
                )


def counters_device(group: Group) -> torch.device:
    """The device of the counters of a group."""
    return group["params"][0].device if group["params"] else torch.device("cpu")
