"""`sigma^p`: Muon at 0, HTMuon at 1/8, SGD with momentum at 1."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from htmuon.linalg import Axis, Family
from htmuon.spectral.base import MAPS, check_power

# The powers of the polynomial method; the grid holds all multiples of 1/32.
POWERS = Family(torch.pow, (Axis(-0.25, 1.0, 41),))


@MAPS.register("power")
@dataclass(frozen=True)
class Power:
    """The power map, `U S^p V^T` (HTMuon, arXiv 2603.10067).

    For p in [0, 1] it is the direction of steepest descent under the Schatten-q norm with `q = 1 + 1/p`.

    Args:
        power: the exponent p, in [-1, 1].

    Raises:
        ValueError: the exponent is outside its range.

    Example:
        >>> import torch
        >>> Power(0.5)(torch.tensor([1.0, 0.25]))
        tensor([1.0000, 0.5000])
    """

    power: float | Tensor

    def __post_init__(self) -> None:
        check_power(self.power)

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes."""
        return self

    @property
    def family(self) -> Family:
        """All powers."""
        return POWERS

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`(ratio x)^p = ratio^p x^p`."""
        return (self.power,), ratio**self.power

    @property
    def degree(self) -> float | Tensor:
        """Scales as the p-th power of the matrix."""
        return self.power

    def __call__(self, relative: Tensor) -> Tensor:
        """`x^p`."""
        result: Tensor = relative**self.power
        return result
