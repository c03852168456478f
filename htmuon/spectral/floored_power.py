"""A power above a floor, and level below: negative powers that do not lift what is rounding."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from htmuon._checks import check_number
from htmuon.spectral.base import MAPS, broadcastable, check_power, per_matrix


@MAPS.register("floored_power")
@dataclass(frozen=True)
class FlooredPower:
    """The power map whose weights stop to grow, or to fall, below a floor.

        g(x) = max(x, floor)^p,   x = sigma / sigma_1

    It scales as `Power`, and is `Power` where no singular value is below the floor.

    To train with another floor: `spectral_map=FlooredPower(-0.4, floor=1e-2)`.

    Args:
        exponent: p, in [-1, 1]; what an optimizer calls `power`. Or a tensor `[*batch]` with one for each matrix.
        floor: relative to `sigma_1`, in (0, 1].

    Raises:
        TypeError: the exponent or the floor is no number.
        ValueError: it is outside its range.

    Example:
        >>> import torch
        >>> FlooredPower(-0.5, floor=0.01)(torch.tensor([1.0, 0.25, 0.0001]))
        tensor([ 1.,  2., 10.])

    Not for methods that are made of products, for which its corner is too sharp: `quintic` with a `Power` goes smoothly
    to zero below its own range instead.
    """

    exponent: float | Tensor
    floor: float = 1e-3

    power = None
    family = None

    def __post_init__(self) -> None:
        check_power(self.exponent, each=True)
        check_number("floor", self.floor, above=0.0, most=1.0, remedy="Pass a float such as 1e-3.")

    @property
    def degree(self) -> float | Tensor:
        """Scales as the p-th power of the matrix."""
        return broadcastable(self.exponent, 2)

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes, but for exponents of each matrix, of which it has one for each then."""
        return replace(self, exponent=per_matrix(self.exponent, shape)) if isinstance(self.exponent, Tensor) else self

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """It is no member of a family."""
        raise AssertionError("a map without a family has no parameters")

    def __call__(self, relative: Tensor) -> Tensor:
        """`max(x, floor)^p`."""
        result: Tensor = relative.clamp(min=self.floor) ** broadcastable(self.exponent, 1)
        return result
