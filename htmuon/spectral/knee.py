"""One above the noise and a power below: only what looks like noise is damped."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from htmuon._checks import check_real
from htmuon.linalg import Axis, Family
from htmuon.spectral.base import MAPS, check_power
from htmuon.spectral.edge import LOWEST_EDGE, MarchenkoPastur, Quantile, noise_edge, quantile_from_dict


@MAPS.register("knee")
@dataclass(frozen=True)
class Knee:
    """The knee: directions above `tau` weigh 1, as in Muon; those below weigh `(x / tau)^p`, with a smooth corner.

        g(x) = (1 + (tau / x)^s)^(-p / s),   x = sigma / sigma_1

    p = 0 is the polar factor for every tau. To train with another tau: `spectral_map=Knee(0.125, tau=0.02)`.

    Args:
        exponent: p, in [0, 1]; what an optimizer calls `power`.
        tau: where the noise begins, relative to `sigma_1`. A number in [1e-4, 1] is the same for all matrices;
            `"marchenko_pastur"` is the edge that noise of the same norm and shape would have, for every matrix its own;
            `Quantile(0.5)` lets a share of the singular values lie below, and needs all of them: method `svd`, `eigh`
            or `streaming`. A file holds the last one as `{"share": 0.5}`.
        sharpness: s, at least 1, of the corner, which is about `1 / s` wide in log x; infinity is a corner without
            rounding. Methods that are made of products fit sharper corners less well.
        shape: `(m, n)` of the matrix, filled by `at`.

    Raises:
        ValueError: exponent, tau or sharpness is outside its range.

    Example:
        >>> Knee(0.5, tau=0.1)(torch.tensor([1.0, 0.1, 0.001]))
        tensor([1.0000, 0.9170, 0.1000])

    Not for raising weak directions: negative exponents are refused, `Power` has them.
    """

    exponent: float | Tensor
    tau: float | MarchenkoPastur | Quantile = "marchenko_pastur"
    sharpness: float = 4.0
    shape: tuple[int, int] | None = None

    power = None
    degree = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", quantile_from_dict(self.tau))
        check_power(self.exponent)
        if not isinstance(self.exponent, Tensor) and self.exponent < 0:
            raise ValueError(
                f"the knee damps what is below it and needs a power in [0, 1]; got {self.exponent}. "
                "Use spectral_map='power' for negative powers."
            )
        check_corner(self.tau, self.sharpness)

    def at(self, shape: tuple[int, ...]) -> Self:
        """The map bound to matrices `[*batch, m, n]`."""
        last = (shape[-2], shape[-1])
        return self if self.shape == last else replace(self, shape=last)

    @property
    def family(self) -> Family | None:
        """All edges, and all exponents unless it is a round number; none where the edge needs all singular values."""
        if isinstance(self.tau, Quantile):
            return None
        round_exponent = _round(self.exponent)
        return knees(self.sharpness) if round_exponent is None else knees_of(round_exponent, self.sharpness)

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`g(ratio x)` is the knee at `tau / ratio`."""
        log_tau = self._edge(stable_rank).log() - ratio.log()
        return ((self.exponent, log_tau) if _round(self.exponent) is None else (log_tau,)), 1.0

    def __call__(self, relative: Tensor) -> Tensor:
        """`g(x)`."""
        if isinstance(self.tau, Quantile):
            tau = self.tau.edge(relative).clamp(min=LOWEST_EDGE)
        else:
            tau = self._edge(relative.square().sum(-1, keepdim=True))
        return corner(relative, self.exponent, tau.log(), self.sharpness)

    def _edge(self, stable_rank: Tensor) -> Tensor:
        """Tau, in the shape of `stable_rank`."""
        if not isinstance(self.tau, str):
            assert not isinstance(self.tau, Quantile)
            return torch.full_like(stable_rank, self.tau)
        if self.shape is None:
            raise ValueError(
                "the Marchenko-Pastur edge of a knee needs the shape of the matrix. Bind the map with .at(matrix.shape)"
                " first, as spectral_map does, or give tau as a number."
            )
        return noise_edge(stable_rank, self.shape).clamp(min=LOWEST_EDGE)


def corner(relative: Tensor, power: float | Tensor, log_tau: float | Tensor, sharpness: float) -> Tensor:
    """`(1 + (tau / x)^s)^(-p / s)`, from logarithms: no power of a ratio overflows. `min(1, x / tau)^p` at s infinite.

    Args:
        relative: x, in (0, 1].
        power: p.
        log_tau: `log tau`, broadcasts to x.
        sharpness: s.
    """
    depth = log_tau - relative.log()
    if math.isinf(sharpness):
        below = depth.clamp(min=0)
    else:
        below = torch.logaddexp(sharpness * depth, torch.zeros_like(depth)) / sharpness
    return (-power * below).exp()


def check_corner(tau: object, sharpness: float) -> None:
    """Raise ValueError unless tau and the sharpness of a corner are valid."""
    number = isinstance(tau, int | float) and not isinstance(tau, bool) and LOWEST_EDGE <= tau <= 1
    if not (number or isinstance(tau, Quantile) or tau == "marchenko_pastur"):
        raise ValueError(
            f"tau must be a number in [{LOWEST_EDGE:g}, 1], 'marchenko_pastur' or Quantile(share); got {tau!r}. "
            "Pass a number such as 0.05."
        )
    check_real("sharpness", sharpness, "Pass a float such as 4.0.")
    if not sharpness >= 1:
        raise ValueError(f"sharpness must be at least 1; got {sharpness}. Pass a float such as 4.0.")


def _round(exponent: float | Tensor) -> float | None:
    """The exponent, if it is a number and a multiple of 1/64.

    Such a one is likely to stay, and gets a fit of its own edges, in a tenth of the time. The many of a schedule share
    one fit of all exponents.
    """
    return float(exponent) if not isinstance(exponent, Tensor) and (64 * exponent) % 1 == 0 else None


# Of log tau, relative to a bound of sigma_1: that is up to e times sigma_1 for matrices of up to 2980 rows.
LOG_EDGES = (math.log(LOWEST_EDGE) - 1, 0.0)


@lru_cache(maxsize=128)
def knees_of(power: float, sharpness: float) -> Family:
    """The knees of one exponent and sharpness, for all `log tau`."""
    return Family(lambda x, log_tau: corner(x, power, log_tau, sharpness), (Axis(*LOG_EDGES, 37),))


@lru_cache(maxsize=64)
def knees(sharpness: float) -> Family:
    """The knees of one sharpness, for all exponents, multiples of 1/16 being exact, and all `log tau`."""
    return Family(
        lambda x, power, log_tau: corner(x, power, log_tau, sharpness),
        (Axis(0.0, 1.0, 17), Axis(*LOG_EDGES, 28)),
    )
