"""Groups that are added to an optimizer that is already there: bare tensors, as trainers unfreeze them."""

from collections.abc import Sequence
from itertools import count
from typing import Any

from torch import Tensor

from htmuon._checks import check_learning_rate, plain
from htmuon._typing import Group
from htmuon.routing.storage import other_reason
from htmuon.routing.views import check_shaped


def divided(group: Group, defaults: Group, other_defaults: Group) -> list[Group]:
    """A group of bare tensors that does not say `use_muon`: one of what cannot be a matrix, and one of matrices.

    The first takes AdamW without weight decay, and of a learning rate that is given, which is one for matrices, the
    share that the optimizer's own two have. The matrices are last, where trainers look for what they have added.

    Args:
        group: as a user or a trainer gives it.
        defaults: the settings of groups of matrices.
        other_defaults: those of the others.
    """
    members = [] if "use_muon" in group or not defaults["use_muon"] else _listed(group["params"])
    if not all(isinstance(member, Tensor) for member in members):
        return [{**group, "params": members}]
    for member in members:
        check_shaped(member, "a parameter")
    others = [member for member in members if other_reason(member) is not None]
    if not others:
        return [{**group, "params": members or group["params"]}]
    matrices = [member for member in members if other_reason(member) is None]
    share = float(other_defaults["lr"]) / float(defaults["lr"]) if float(defaults["lr"]) > 0 else 1.0
    if "lr" in group:
        check_learning_rate("lr", group["lr"] if isinstance(group["lr"], Tensor) else plain(group["lr"]), wait=True)
    rates: Group = {key: group[key] * share for key in ("lr", "initial_lr") if key in group}
    groups: list[Group] = [{**group, **rates, "params": others, "use_muon": False, "weight_decay": 0.0}]
    return [*groups, {**group, "params": matrices}] if matrices else groups


def with_or_without_names(groups: Sequence[Group], existing: Sequence[Group]) -> list[Group]:
    """Groups whose parameters have names if those of an optimizer have, by their place, and else have none."""
    named = any("param_names" in group for group in existing)
    taken = {name.partition(".")[0] for group in existing for name in group.get("param_names", ())}
    free = (f"group{number}" for number in count(len(existing)) if f"group{number}" not in taken)
    return [{**group, "params": _members(group["params"], next(free) if named else None)} for group in groups]


def _members(given: Any, prefix: str | None) -> list[Any]:
    members = _listed(given)
    if prefix is None:
        return [member[1] if isinstance(member, tuple) else member for member in members]
    return [m if isinstance(m, tuple) else (f"{prefix}.{place}", m) for place, m in enumerate(members)]


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)
