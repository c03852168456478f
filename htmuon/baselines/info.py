"""One row for each optimizer: what a spec, a search for learning rates and a report have to know about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from htmuon._typing import Group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# The name of AdamW in specs: every search for learning rates begins with it.
ADAMW = "adamw"
# Where the search for the rate of Muon and of its relatives starts.
MUON_FIRST_LR = 0.02


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """What a run gives to its optimizer.

    Attributes:
        groups: of `htmuon.param_groups`.
        lr: peak learning rate, of the hidden matrices where they have one of their own.
        adamw_lr: that of the other parameters, where matrices have one of their own.
        weight_decay: of groups that have no other.
        steps: of the whole run; None if that is not known.
        process_group: ranks with equal parameters and gradients.
    """

    groups: list[Group]
    lr: float
    adamw_lr: float
    weight_decay: float
    steps: int | None = None
    process_group: "ProcessGroup | None" = None


@dataclass(frozen=True, kw_only=True)
class OptimizerInfo:
    """One optimizer.

    Attributes:
        name: in specs.
        label: for readers.
        make: from `RunInputs` and, by keyword, settings the optimizer.
        settings: what a spec may set, with the defaults. `matrices` says which parameters are matrices; all others are
            keywords of `make`.
        separate_rates: from the settings of a spec whether matrices and other parameters have learning rates of their
            own.
        rule: one line on how it updates a hidden matrix.
        first_lr: where the search for its learning rate starts; None for relatives of Muon, whose best rates are near
            each other.
        family: the name of the optimizer that differs from this one in nothing but its default power, which is not 0;
            else its own name.
        is_muon: whether it is Muon itself, with which the others are compared.
    """

    name: str
    label: str
    make: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, Any]
    separate_rates: Callable[[Mapping[str, Any]], bool]
    rule: str
    first_lr: float | None
    family: str
    is_muon: bool


def first_line(part: object) -> str:
    """The first line of a docstring.

    Example:
        >>> first_line(first_line)
        'The first line of a docstring.'
    """
    return (part.__doc__ or "").strip().partition("\n")[0]
