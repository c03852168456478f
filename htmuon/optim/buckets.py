"""Which parameters a step updates together."""

from collections import defaultdict
from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from htmuon._typing import Group
from htmuon.layouts import Layout, Layouts
from htmuon.routing.views import batch_dims, default_view, matrix_shape


def has_gradient(parameter: Tensor) -> bool:
    """Whether a step has anything to do for a parameter."""
    return parameter.grad is not None and parameter.numel() > 0


def matrix_layout(group: Group, parameter: Tensor, layouts: Layouts) -> Layout:
    """How the ranks hold a matrix parameter of a group."""
    return layouts.of(parameter, batch_dims(parameter.ndim, group["matrix_view"]))


def matrix_buckets(
    group: Group, layouts: Layouts, stack_elements: Callable[[Tensor], int]
) -> list[tuple[Layout, list[Tensor]]]:
    """The matrix parameters of a group that move, in stacks of equal shape and layout, the dearest first.

    Args:
        group: with `use_muon=True`.
        layouts: how the ranks hold parameters.
        stack_elements: how many elements a stack of parameters like the given one has at most, as far as a rank holds
            them; but a stack has a parameter for each rank that computes, so that none waits.
    """
    alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for p in filter(has_gradient, group["params"]):
        alike[(matrix_layout(group, p, layouts), p.shape, p.dtype, p.device)].append(p)
    found = []
    for (layout, *_), parameters in alike.items():
        most = max(layout.owners, stack_elements(parameters[0]) * layout.ranks // parameters[0].numel())
        found += [(layout, parameters[first : first + most]) for first in range(0, len(parameters), most)]
    return sorted(found, key=lambda bucket: -cost(group, bucket[1][0]))


def other_buckets(group: Group) -> list[list[Tensor]]:
    """The other parameters of a group that move, in lists that one call updates."""
    alike: dict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for p in filter(has_gradient, group["params"]):
        alike[(p.dtype, p.device)].append(p)
    return list(alike.values())


def cost(group: Group, parameter: Tensor) -> float:
    """Of the map of a parameter, in multiplications: its elements times the short side of its matrices."""
    *_, rows, columns = matrix_shape(tuple(parameter.shape), group["matrix_view"] or default_view(parameter.ndim))
    return float(prod(parameter.shape) * min(rows, columns))
