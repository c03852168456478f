"""Which function of the singular values becomes the update.

Two ideas. A *spectral map* gives every direction a weight, `g(sigma / sigma_1)`: `power` keeps a power of the spectrum,
`rank_power` a power of the position, `knee` damps only what is below the noise, `soft_clip` holds published maps that
level off, `function` anything that a Python function says. A *normalization* fixes the size
of the result afterwards. A map knows nothing about how it is computed: that is the method's part (`htmuon.linalg`).
"""

from typing import Protocol

from torch import Tensor

from htmuon._checks import check_real, known
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


def check_power(power: object) -> None:
    """Raise unless `power` is a real number in [-1, 1]; what an accelerator holds is trusted, not read."""
    if isinstance(power, Tensor):
        if power.ndim != 0 or not power.is_floating_point():
            raise TypeError(
                f"power must be a number or a 0-d floating-point tensor; got shape {tuple(power.shape)} and dtype "
                f"{power.dtype}. Pass a Python float such as 0.125."
            )
        exponent = known(power)
    else:
        exponent = check_real("power", power, "Pass a float such as 0.125.")
    low, high = POWER_RANGE
    if exponent is not None and not low <= exponent <= high:  # also refuses NaN
        raise ValueError(
            f"power must lie in [{low}, {high}]; got {power}. 0 is Muon, 0.125 is HTMuon, 1 is SGD with momentum, "
            "negative values lift the weak directions."
        )


def check_neutral(name: str, power: float | Tensor, neutral: float) -> None:
    """Raise ValueError unless the power is the one of the weak directions; the value of a tensor is trusted."""
    check_power(power)
    if not isinstance(power, Tensor) and power != neutral:
        raise ValueError(
            f"spectral_map {name!r} has no free exponent: in weak directions it goes as sigma^{neutral:g}, and needs "
            f"power={neutral:g}; got {power}. Pass power={neutral:g}, or use spectral_map='knee'."
        )
