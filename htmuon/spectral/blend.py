"""The polar factor blended with the momentum itself: every direction moves, the strong ones more."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from htmuon._checks import check_number
from htmuon.linalg import Axis, Family
from htmuon.spectral.base import MAPS, check_neutral


@dataclass(frozen=True)
class Blend:
    """A polar factor, blended with the matrix at the same size.

        O = (1 - share) U V^T + share M r^0.5 / norm_F(M),   r = min(m, n)

    so that a direction weighs `1 - share + share (sigma / sigma_1) (r / stable rank)^0.5`.

    Args:
        share: of the matrix itself, in [0, 0.99]; 0 is the polar factor.
        shape: of the matrix, which a method fills in.

    Raises:
        TypeError: the share is no number.
        ValueError: it is out of range.

    Example:
        >>> Blend(0.5).at((2, 2))(torch.tensor([0.8, 0.6]))
        tensor([1.0657, 0.9243])

    Source: the speed runs of nanoGPT (modded-nanogpt, pull request 332), whose share is the default.
    """

    share: float = 0.2
    shape: tuple[int, ...] | None = None

    name = "blend"
    power = None
    exponent = 0.0
    degree = 0.0

    def __post_init__(self) -> None:
        check_number("share", self.share, most=0.99, remedy="Pass a float such as 0.2.")

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same, for matrices `[*batch, m, n]`."""
        return replace(self, shape=tuple(shape[-2:]))

    @property
    def family(self) -> Family:
        """`1 + b x` for all b."""
        return _LINES

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """With `b = share / (1 - share) ratio (r / stable_rank)^0.5`, and no less than what changes nothing."""
        assert self.shape is not None
        slope = self.share / (1 - self.share) * ratio * (min(self.shape) / stable_rank).sqrt()
        return (slope.log().clamp(min=_LINES.axes[0].low),), 1 - self.share

    def __call__(self, relative: Tensor) -> Tensor:
        """The weight of each direction."""
        rank = relative.shape[-1] if self.shape is None else min(self.shape)
        size = rank**0.5 / torch.linalg.vector_norm(relative, dim=-1, keepdim=True)
        weights: Tensor = 1 - self.share + self.share * relative * size
        return weights


_LINES = Family(lambda x, log_b: 1 + log_b.exp() * x, (Axis(math.log(1e-4), math.log(1e5), 61),))


@MAPS.register("blend")
def blend(power: float | Tensor, /) -> Blend:
    """The polar factor and a fifth of the matrix in its size, `0.8 + 0.2 sigma r^0.5 / norm_F`; power=0."""
    check_neutral("blend", power, 0.0)
    return Blend()
