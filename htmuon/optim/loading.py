"""State from elsewhere: what a state_dict holds, checked and converted before anything is changed.

It may come from an older version of this library, from `torch.optim.AdamW`, from a file that knows no tensors, or from
a model whose parameters stand in another order.
"""

import copy
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htmuon._typing import Group
from htmuon._warnings import warn
from htmuon.linalg.base import compute_dtype
from htmuon.optim.settings import COUNTERS, check_parameters, counters_device
from htmuon.optim.state import State, check_state, copied
from htmuon.routing.names import WRAPPERS

if TYPE_CHECKING:
    from htmuon.optim.groups import GroupedOptimizer

# Settings of torch's Adam and AdamW that change a step, with the values that this library does not have.
FOREIGN = (("amsgrad", True), ("maximize", True), ("decoupled_weight_decay", False))
ADAMW_KEYS = ("step", "exp_avg", "exp_avg_sq")
# Choices that are made for a run and that a state_dict brings: a change of them is said.
CHOICES = (
    "rate_rule",
    "power_rule",
    "momentum_rule",
    "weight_update",
    "spectral_map",
    "normalization",
    "power",
)


def loaded(state_dict: dict[str, Any], optimizer: "GroupedOptimizer") -> tuple[list[Group], defaultdict[Any, State]]:
    """Groups with saved settings, and the state of every parameter, for an optimizer: checked copies.

    Args:
        state_dict: what the hooks have left of it.
        optimizer: is not changed.

    Raises:
        TypeError: a saved setting has the wrong type.
        ValueError: a saved setting is invalid, or groups, names or states don't match.
    """
    saved_groups = matched_groups(state_dict["param_groups"], optimizer.param_groups)
    groups = [_group(saved, mine, optimizer) for saved, mine in zip(saved_groups, optimizer.param_groups, strict=True)]
    unmatched = dict(state_dict["state"])
    state: defaultdict[Any, State] = defaultdict(dict)
    for group, saved in zip(groups, saved_groups, strict=True):
        names = group.get("param_names") or saved["params"]
        for parameter, index, name in zip(group["params"], saved["params"], names, strict=True):
            if index in unmatched:
                own, who = unmatched.pop(index), f"parameter {name!r}"
                _check_kind(own, ("momentum_buffer",) if group["use_muon"] else ADAMW_KEYS, who)
                check_state(own, parameter, optimizer.state_shapes(group, parameter), who)
                load = copied_state if group["use_muon"] else partial(adamw_loaded, who=who)
                state[parameter] = load(own, parameter)
    state.update(unmatched)
    _warn_of_other_choices(groups, optimizer.param_groups)
    return groups, state


def _differs(name: str, new: Group, old: Group) -> bool:
    """Whether a choice is another one; a power that a schedule moves is none, nor one that the host must not read."""
    if name == "power" and (new["power_schedule"] or old["power_schedule"]):
        return False
    values = new[name], old[name]
    return not any(isinstance(value, Tensor) for value in values) and values[0] != values[1]


def _warn_of_other_choices(groups: Sequence[Group], mine: Sequence[Group]) -> None:
    """Warn, once for each, of choices that loading changes."""
    pairs = [(new, old) for new, old in zip(groups, mine, strict=True) if old["use_muon"]]
    changed = [(name, old[name], new[name]) for new, old in pairs for name in CHOICES if _differs(name, new, old)]
    for number, (name, had, brought) in enumerate(changed):
        if (name, had, brought) not in changed[:number]:
            warn(
                f"the state_dict brings {name}={brought!r} in place of {had!r}, which the optimizer was made with: "
                f"settings come with the state. To keep yours, set group[{name!r}] = {had!r} after loading for each "
                f"group in optimizer.param_groups, or remove {name!r} from the groups of the state_dict before."
            )


def _check_kind(saved: State, ours: Sequence[str], who: str) -> None:
    """Raise unless a state is empty or that of an optimizer of the same kind."""
    if saved and not set(ours) & saved.keys():
        raise ValueError(
            f"the state of {who} must have {' and '.join(ours)}; it has {', '.join(map(str, saved))}, as "
            "another kind of optimizer has. Remove it from the state_dict to start this parameter from zero."
        )


def _group(saved: Group, mine: Group, optimizer: "GroupedOptimizer") -> Group:
    """A checked group with saved settings and the parameters of one of the optimizer's."""
    for name, other in FOREIGN:
        if saved.get(name) is other and not (name == "decoupled_weight_decay" and not saved.get("weight_decay")):
            raise ValueError(
                f"a saved optimizer with {name}={other} takes steps that this one cannot take. Set it to {not other} "
                "in the state_dict to continue without it."
            )
    if "steps_taken" not in saved and {"step", "skipped_steps"} <= saved.keys():  # as the counter was called once
        saved = {"steps_taken" if name == "step" else name: value for name, value in saved.items()}
    group = {**mine, **saved, "params": mine["params"]}
    optimizer.check_group(group)
    check_parameters(group)
    for counter in COUNTERS:
        group[counter] = number_loaded(group[counter], torch.int64, counters_device(mine), counter)
    return group


def matched_groups(saved: Sequence[Group], groups: Sequence[Group]) -> list[Group]:
    """Copies of the saved groups in the order of the optimizer's, their `params` in the order of its parameters.

    By name where both sides have names, which wrappers may have lengthened, else by position.

    Args:
        saved: of a state_dict, with numbers for parameters.
        groups: of the optimizer.

    Raises:
        ValueError: numbers of groups or parameters differ, or both sides have names and they are not the same.
    """
    found = [_copied(group) for group in saved]
    if not all(map(_is_named, chain(saved, groups))):
        _check_lengths(found, groups)
        return found
    theirs, ours = ([group["param_names"] for group in side] for side in (found, groups))
    if {*chain(*theirs)} != {*chain(*ours)}:
        theirs, ours = _unwrapped(theirs), _unwrapped(ours)
    if theirs == ours:
        return found
    missing = sorted({*chain(*ours)} - {*chain(*theirs)})
    unknown = sorted({*chain(*theirs)} - {*chain(*ours)})
    if missing or unknown:
        clauses = [f"it {verb} {_some(names)}" for verb, names in (("lacks", missing), ("has", unknown)) if names]
        raise ValueError(
            f"the state_dict must have the parameters of the optimizer; {' and '.join(clauses)}. Rename them in its "
            "'param_names', or remove 'param_names' from its groups to load by position."
        )
    by_names = {frozenset(names): (group, names) for group, names in zip(found, theirs, strict=True)}
    if any(frozenset(names) not in by_names for names in ours):
        raise ValueError(
            "the state_dict must divide the parameters into the same groups as the optimizer; the names are the same, "
            "their groups are not. Build the groups as they were when it was saved; to go on with others, load it into "
            "these first and take over what they hold: optimizer.state.update(restored.state)."
        )
    warn(
        "the parameters of the state_dict stand in another order than those of the optimizer; they are matched by "
        "name. To load by position, remove 'param_names' from its groups."
    )
    return [_reordered(*by_names[frozenset(names)], names, group) for names, group in zip(ours, groups, strict=True)]


def _copied(saved: Group) -> Group:
    """A copy that has names only if they are the parameters'."""
    left_out = ("params",) if _is_named(saved) else ("params", "param_names")
    kept = {name: value for name, value in saved.items() if name not in left_out}
    return {**copy.deepcopy(kept), "params": [*saved["params"]]}


def _is_named(group: Group) -> bool:
    """Whether every parameter has a name of its own."""
    names = group.get("param_names")
    return names is not None and len({*names}) == len(names) == len(group["params"])


def _unwrapped(names: list[list[str]]) -> list[list[str]]:
    """Names without what wrappers put into them, unless two would become one."""
    short = [[WRAPPERS.sub("", name) for name in group] for group in names]
    return short if len({*chain(*short)}) == len([*chain(*names)]) else names


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _reordered(saved: Group, theirs: Sequence[str], names: Sequence[str], group: Group) -> Group:
    index = dict(zip(theirs, saved["params"], strict=True))
    return {**saved, "params": [index[name] for name in names], "param_names": [*group["param_names"]]}


def _check_lengths(saved: Sequence[Group], groups: Sequence[Group]) -> None:
    theirs, ours = ([len(group["params"]) for group in side] for side in (saved, groups))
    if theirs != ours:
        raise ValueError(
            f"the state_dict must have as many parameters in each group as the optimizer; it has {theirs}, the "
            f"optimizer {ours}. Build the optimizer from the model and with the groups for which it was saved."
        )


def adamw_loaded(saved: dict[str, Any], parameter: Tensor, who: str) -> dict[str, Any]:
    """The state of a parameter that takes AdamW, in the dtypes that the kernel needs.

    Args:
        saved: its state in a state_dict.
        parameter: the parameter.
        who: the parameter, for the error.

    Raises:
        ValueError: a part of it is missing, or the step is not a number.
    """
    there = [key for key in ADAMW_KEYS if key in saved]
    if not there:
        return copied_state(saved, parameter)
    if len(there) < len(ADAMW_KEYS):
        missing = ", ".join(key for key in ADAMW_KEYS if key not in saved)
        raise ValueError(
            f"the state of {who} must have {', '.join(ADAMW_KEYS)}, as that of torch.optim.AdamW has; {missing} is "
            "missing. Add it, or remove the state of this parameter to start it from zero."
        )
    state = copied_state({key: value for key, value in saved.items() if key != "step"}, parameter)
    for key in ("exp_avg", "exp_avg_sq"):
        state[key] = state[key].to(parameter.dtype)  # the fused kernel takes one dtype
    # A tensor that torch's AdamW can count in.
    return {"step": number_loaded(saved["step"], torch.float32, parameter.device, f"the step of {who}"), **state}


def number_loaded(value: object, dtype: torch.dtype, device: torch.device, who: str) -> Tensor:
    """A saved number as a new 0-d tensor.

    Raises:
        ValueError: it is no number.
    """
    try:
        number = torch.as_tensor(value, dtype=dtype).reshape(()).to(device, copy=True)
    except (TypeError, ValueError, RuntimeError):
        number = None
    if number is None:
        raise ValueError(f"{who} must be a number or a tensor of one element; the state_dict has {value!r}.")
    if not number >= 0:
        raise ValueError(f"{who} must be 0 or more; the state_dict has {value!r}.")
    return number


def copied_state(saved: dict[str, Any], parameter: Tensor) -> dict[str, Any]:
    """A copy of a saved state beside its parameter; tensors keep their dtype, but none wider than a step works in."""
    wide = compute_dtype(parameter.dtype)
    tensors = {k: copied(v, parameter) for k, v in saved.items() if isinstance(v, Tensor)}
    narrow = {k: v.to(wide) if v.dtype.itemsize > wide.itemsize else v for k, v in tensors.items()}
    return {**{k: copy.deepcopy(v) for k, v in saved.items() if k not in tensors}, **narrow}
