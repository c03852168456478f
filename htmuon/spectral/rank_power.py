"""`i^-p`: the weights depend on the position of a direction alone (the paper's HTMuon_HT)."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from htmuon.spectral.base import MAPS, check_power


@MAPS.register("rank_power")
@dataclass(frozen=True)
class RankPower:
    """The rank-power map: the i-th largest singular value is replaced by `i^-p`, i = 1 ... r (HTMuon_HT, 2603.10067).

    The update always has the same heavy-tailed spectrum, whatever the momentum looks like.

    Args:
        exponent: p, in [-1, 1]; 0 is the polar factor.

    Raises:
        ValueError: the exponent is outside its range.

    Example:
        >>> import torch
        >>> RankPower(1.0)(torch.tensor([0.1, 1.0, 0.2, 0.05]))
        tensor([0.3333, 1.0000, 0.5000, 0.2500])
    """

    exponent: float | Tensor

    # Not a power of the singular values, so no products-only recipe applies; and blind to the scale.
    power = None
    family = None
    degree = 0.0

    def __post_init__(self) -> None:
        check_power(self.exponent)

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes."""
        return self

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """It is no member of a family."""
        raise AssertionError("a map without a family has no parameters")

    def __call__(self, relative: Tensor) -> Tensor:
        """`i^-p`, i counted from the largest value; equal values count in the order in which they stand."""
        order = relative.argsort(dim=-1, descending=True, stable=True)
        position = order.argsort(dim=-1).to(relative.dtype) + 1
        result: Tensor = position ** (-self.exponent)
        return result
