"""`sigma^p`: Muon at 0, HTMuon at 1/8, SGD with momentum at 1."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from htmuon.linalg import Axis, Family
from htmuon.spectral.base import MAPS, broadcastable, check_power, per_matrix

# The powers of the polynomial method; the grid holds all multiples of 1/32.
POWERS = Family(torch.pow, (Axis(-0.25, 1.0, 41),))


@MAPS.register("power")
@dataclass(frozen=True)
class Power:
    """The power map, `U S^p V^T` (HTMuon, arXiv 2603.10067).

    For p in [0, 1] it is the direction of steepest descent under the Schatten-q norm with `q = 1 + 1/p`.

    Args:
        power: the exponent p, in [-1, 1], or a tensor `[*batch]` with one for each matrix.

    Raises:
        TypeError: the exponent is no number.
        ValueError: it is outside its range, or there are not as many as matrices.

    Example:
        >>> import torch
        >>> Power(0.5)(torch.tensor([1.0, 0.25]))
        tensor([1.0000, 0.5000])
    """

    power: float | Tensor

    def __post_init__(self) -> None:
        check_power(self.power, each=True)

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes, but for exponents of each matrix, of which it has one for each then."""
        return replace(self, power=per_matrix(self.power, shape)) if isinstance(self.power, Tensor) else self

    @property
    def family(self) -> Family:
        """All powers."""
        return POWERS

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`(ratio x)^p = ratio^p x^p`."""
        power = self.power.flatten() if isinstance(self.power, Tensor) and self.power.ndim else self.power
        return (power,), ratio**power

    @property
    def degree(self) -> float | Tensor:
        """Scales as the p-th power of the matrix."""
        return broadcastable(self.power, 2)

    def __call__(self, relative: Tensor) -> Tensor:
        """`x^p`."""
        result: Tensor = relative ** broadcastable(self.power, 1)
        return result
