"""Which function of the singular values becomes the update.

Two ideas. A *spectral map* gives every direction a weight, `g(sigma / sigma_1)`: `power` keeps a power of the spectrum,
`rank_power` a power of the position, `knee` damps only what is below the noise, `soft_clip` holds published maps that
level off, `function` anything that a Python function says. A *normalization* fixes the size
of the result afterwards. A map knows nothing about how it is computed: that is the method's part (`htmuon.linalg`).
"""

from typing import Protocol

from torch import Tensor

from htmuon._checks import check_real, host_may_look
from htmuon._registry import Registry
from htmuon.linalg import ScalarFunction

POWER_RANGE = (-1.0, 1.0)


class SpectralMap(ScalarFunction, Protocol):
    """A scalar function of the relative singular values that knows how it scales.

    `degree` says by which power of the scale of `M` the mapped matrix grows when nothing is normalized: p for the power
    map, 0 for every map that looks at `sigma / sigma_1` or at positions only.
    """

    def at(self, shape: tuple[int, ...]) -> "SpectralMap":
        """The map for matrices `[*batch, m, n]`; most return themselves. Binding twice is binding once."""

    @property
    def degree(self) -> float | Tensor:
        """The mapped matrix of `c M` is `c^degree` times that of `M`."""


class SpectralMapFactory(Protocol):
    """Makes the map of one family for an exponent: what `MAPS` holds, and what an optimizer's `spectral_map` names."""

    def __call__(self, power: float | Tensor, /) -> SpectralMap:
        """The member of the family with this exponent."""


MAPS: Registry[SpectralMapFactory] = Registry("spectral_map")


def check_power(power: object, *, each: bool = False) -> None:
    """Raise unless `power` is a real number in [-1, 1]; what an accelerator holds is trusted, not read.

    Args:
        power: of a map.
        each: whether it may be a tensor with one for each matrix.
    """
    low, high = POWER_RANGE
    if isinstance(power, Tensor):
        if (power.ndim != 0 and not each) or not power.is_floating_point():
            raise TypeError(
                f"power must be a number or a {'' if each else '0-d '}floating-point tensor; got shape "
                f"{tuple(power.shape)} and dtype {power.dtype}. Pass a Python float such as 0.125."
            )
        inside = not host_may_look(power) or bool(((power >= low) & (power <= high)).all())  # also refuses NaN
    else:
        inside = low <= check_real("power", power, "Pass a float such as 0.125.") <= high
    if not inside:
        raise ValueError(
            f"power must lie in [{low}, {high}]; got {power}. 0 is Muon, 0.125 is HTMuon, 1 is SGD with momentum, "
            "negative values lift the weak directions."
        )


def per_matrix(power: float | Tensor, shape: tuple[int, ...]) -> float | Tensor:
    """Exponents of the matrices of a stack `[*batch, m, n]`, as `[*batch]`; what is one for all stays as it is.

    Raises:
        ValueError: there are not as many as matrices.
    """
    if not isinstance(power, Tensor) or power.ndim == 0:
        return power
    try:
        return power.expand(shape[:-2])
    except RuntimeError:
        raise ValueError(
            f"power must have the shape of the batch, {tuple(shape[:-2])}, to be one for each matrix of shape "
            f"{tuple(shape)}; got {tuple(power.shape)}. Give it as many dimensions, or a float for all of them."
        ) from None


def broadcastable(power: float | Tensor, dims: int) -> float | Tensor:
    """Exponents with so many dims of length 1 behind those of the batch, so that they broadcast.

    Example:
        >>> import torch
        >>> broadcastable(torch.zeros(5), 2).shape, broadcastable(0.125, 2)
        (torch.Size([5, 1, 1]), 0.125)
    """
    return power.view(*power.shape, *(1,) * dims) if isinstance(power, Tensor) and power.ndim else power


def check_neutral(name: str, power: float | Tensor, neutral: float) -> None:
    """Raise ValueError unless the power is the one of the weak directions; the value of a tensor is trusted."""
    check_power(power)
    if not isinstance(power, Tensor) and power != neutral:
        raise ValueError(
            f"spectral_map {name!r} has no free exponent: in weak directions it goes as sigma^{neutral:g}, and needs "
            f"power={neutral:g}; got {power}. Pass power={neutral:g}, or use spectral_map='knee'."
        )
