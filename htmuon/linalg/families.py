"""Families of functions of a relative singular value: what a fit is made for."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """The grid of one parameter.

    Attributes:
        low: its smallest value.
        high: its largest value.
        count: how many points, evenly spaced, with both ends.
    """

    low: float
    high: float
    count: int

    def points(self) -> Tensor:
        """All points, float64."""
        return torch.linspace(self.low, self.high, self.count, dtype=torch.float64)


@dataclass(frozen=True)
class Family:
    """Functions of a relative singular value that differ in parameters.

    Attributes:
        function: `f(x, *theta)`, elementwise on float64 tensors that broadcast against each other, never zero.
        axes: the range and grid of each parameter; none for a single function.
    """

    function: Callable[..., Tensor]
    axes: tuple[Axis, ...] = ()
