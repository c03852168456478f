"""Published maps that level off: clips of the singular values, soft and hard, and Soren-lambda.

They have no free exponent. An optimizer's `power` has to be the one with which their weak directions grow, so that
nobody compares a published map and gets another: 1 for the clips, 0 for Soren-lambda.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from htmuon._checks import check_real
from htmuon.linalg import Axis, Family
from htmuon.spectral.base import MAPS, check_neutral
from htmuon.spectral.edge import Quantile
from htmuon.spectral.knee import check_corner, corner, knees_of

# Among the quartiles of sigma / sigma_1 in momentum of real training, which lie near 0.1, 0.05 and 0.02.
DEFAULT_TAU = 0.05


@dataclass(frozen=True)
class Clip:
    """A clip of the singular values: proportional to x far below `tau`, and 1 far above.

        g(x) = (1 + (tau / x)^s)^(-1/s),   x = sigma / sigma_1

    s = 2 is the soft clip, s infinite the hard one, `min(1, x / tau)`.

    Args:
        tau: where it levels off, relative to `sigma_1`, in [1e-4, 1].
        sharpness: s, at least 1.

    Raises:
        ValueError: tau or sharpness is outside its range.

    Example:
        >>> Clip(tau=0.5, sharpness=math.inf)(torch.tensor([1.0, 0.25]))
        tensor([1.0000, 0.5000])

    Not for other exponents or an edge of every matrix: use `Knee`, of which this is the case p = 1.
    """

    tau: float = DEFAULT_TAU
    sharpness: float = 2.0

    power = None
    exponent = 1.0
    degree = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.tau, str | Quantile):
            raise ValueError(f"a clip needs tau as a number; got {self.tau!r}. Use Knee(1.0, tau={self.tau!r}).")
        check_corner(self.tau, self.sharpness)

    @property
    def name(self) -> str:
        """Under which it is registered."""
        return "hard_clip" if math.isinf(self.sharpness) else "soft_clip"

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes."""
        return self

    @property
    def family(self) -> Family:
        """All clips of one sharpness."""
        return knees_of(1.0, self.sharpness)

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`g(ratio x)` is the clip at `tau / ratio`."""
        return (math.log(self.tau) - ratio.log(),), 1.0

    def __call__(self, relative: Tensor) -> Tensor:
        """`g(x)`."""
        return corner(relative, 1.0, math.log(self.tau), self.sharpness)


@dataclass(frozen=True)
class Soren:
    """Soren-lambda: the weak directions keep a floor, the strong ones grow.

        g = (s + sqrt(s^2 + lam)) / (1 + sqrt(1 + lam)),   s = sigma / norm_F(M)

    as published, relative to the Frobenius norm; 0.2 to 0.8 were proposed for lam.

    Args:
        lam: in [0.01, 100]; the larger, the nearer to the polar factor.

    Raises:
        ValueError: lam is outside its range.

    Example:
        >>> Soren(0.44)(torch.tensor([1.0]))
        tensor([1.])
    """

    lam: float = 0.4

    name = "soren"
    power = None
    exponent = 0.0
    degree = 0.0

    def __post_init__(self) -> None:
        check_real("lam", self.lam, "0.4 is the default.")
        if not 0.01 <= self.lam <= 100:
            raise ValueError(f"lam must be in [0.01, 100]; got {self.lam}. 0.4 is the default.")

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes."""
        return self

    @property
    def family(self) -> Family:
        """`h(a x) = a x + sqrt(1 + (a x)^2)` for all a."""
        return _SORENS

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """With `s = ratio x / sqrt(stable_rank)`, g is proportional to `h(s / sqrt(lam))`."""
        floor = torch.full_like(ratio, self.lam**0.5 / (1 + (1 + self.lam) ** 0.5))
        return (ratio.log() - 0.5 * (self.lam * stable_rank).log(),), floor

    def __call__(self, relative: Tensor) -> Tensor:
        """`g`."""
        share = relative / torch.linalg.vector_norm(relative, dim=-1, keepdim=True)
        lifted: Tensor = share + (share.square() + self.lam).sqrt()
        return lifted / float(1 + (1 + self.lam) ** 0.5)


# From where h is 1 to within the error of a fit, to the least lam.
_SORENS = Family(lambda x, log_a: (log_a.exp() * x).asinh().exp(), (Axis(math.log(1e-3), math.log(10.0), 41),))


@MAPS.register("soft_clip")
def soft_clip(power: float | Tensor, /) -> Clip:
    """The soft clip, `x / sqrt(x^2 + tau^2)`, tau = 0.05 (SPECTRA, 2603.14315; Softsign SoftMuon, 2605.31371); power=1.

    Both papers have this function, of absolute singular values: `s / sqrt(1 + s^2 / c^2)`, which is c times it at
    `tau = c`, and `s / sqrt(s^2 + t^-2)` at `tau = 1 / t`. Here tau is relative to `sigma_1`.
    """
    check_neutral("soft_clip", power, 1.0)
    return Clip()


@MAPS.register("hard_clip")
def hard_clip(power: float | Tensor, /) -> Clip:
    """The hard clip, `min(1, x / tau)`, tau = 0.05 (MuCon, 2605.26459); power=1.

    The paper has `min(s, t)` of absolute singular values, which is t times it at `tau = t`; here tau is relative to
    `sigma_1`. Products alone fit the corner to a few percent only; `eigh` is exact.
    """
    check_neutral("hard_clip", power, 1.0)
    return Clip(sharpness=math.inf)


@MAPS.register("soren")
def soren(power: float | Tensor, /) -> Soren:
    """Soren-lambda, `(s + sqrt(s^2 + 0.4)) / (1 + sqrt(1.4))` with `s = sigma / norm_F`; power=0."""
    check_neutral("soren", power, 0.0)
    return Soren()
