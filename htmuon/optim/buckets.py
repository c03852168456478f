"""Which parameters a step updates together."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from htmuon.optim.settings import Group


def moves(parameter: Tensor) -> bool:
    """Whether a step has anything to do for a parameter."""
    return parameter.grad is not None and parameter.numel() > 0


def buckets(group: Group) -> Iterator[list[Tensor]]:
    """The parameters of a group that move, in lists that one call updates: of equal shape where they are stacked.

    A stack holds at most `stack_elements` elements, but one parameter at least.
    """
    alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for p in filter(moves, group["params"]):
        alike[(p.shape if group["use_muon"] else None, p.dtype, p.device)].append(p)
    for parameters in alike.values():
        most = max(1, group["stack_elements"] // parameters[0].numel()) if group["use_muon"] else len(parameters)
        yield from (parameters[first : first + most] for first in range(0, len(parameters), most))
