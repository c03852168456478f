"""What is said, when groups are made, of settings without an effect beside others and of weights that cannot move."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from htmuon._registry import Registry
from htmuon._typing import Group
from htmuon._warnings import warn
from htmuon.layouts import is_distributed
from htmuon.optim.momentum_rules import MOMENTUM_RULES
from htmuon.optim.named import part_of
from htmuon.optim.weight_updates import WEIGHT_UPDATES

REGISTRIES: tuple[Registry[Any], ...] = (MOMENTUM_RULES, WEIGHT_UPDATES)


def warn_of_no_effect(groups: Sequence[Group], usual: Mapping[str, object]) -> None:
    """Warn, once for all groups, of settings that their rules ignore, and of matrices that are zero and stay zero.

    Args:
        groups: as they are stored.
        usual: the default of each setting, which nobody may have chosen.
    """
    of_matrices = [group for group in groups if group["use_muon"]]
    said = [sentence for group in of_matrices for sentence in (*_ignored(group, usual), *_still(group))]
    for sentence in dict.fromkeys(said):
        warn(sentence)


def _ignored(group: Group, usual: Mapping[str, object]) -> Iterable[str]:
    for registry in REGISTRIES:
        kind, choice = registry.kind, group[registry.kind]
        for name, harmless in getattr(part_of(registry, choice), "ignores", {}).items():
            if group[name] not in (usual[name], *harmless):
                yield (
                    f"{name}={group[name]!r} has no effect with {kind}={choice!r}. Leave it out, or choose another "
                    f"{kind}."
                )


def _still(group: Group) -> Iterable[str]:
    choice = group["weight_update"]
    if getattr(part_of(WEIGHT_UPDATES, choice), "keeps_zero", False):
        shown = [repr(name) for name in group.get("param_names", ())] or [
            f"one of shape {tuple(p.shape)}" for p in group["params"]
        ]
        zero = [name for name, p in zip(shown, group["params"], strict=True) if _is_zero(p)]
        if zero:
            more = f" and {len(zero) - 3} more" if len(zero) > 3 else ""
            yield (
                f"weight_update={choice!r} keeps the norm of weights: those that are zero never move, as now "
                f"{', '.join(zero[:3])}{more}. Initialize them, or load their values, before the first step, or put "
                "them into a group with weight_update='decoupled'."
            )


def _is_zero(parameter: Tensor) -> bool:
    """Whether all of it is zero, as far as this rank can say by itself."""
    return not (parameter.is_meta or is_distributed(parameter)) and parameter.numel() > 0 and not parameter.any()
