"""Any function of `sigma / sigma_1`, given as a Python function."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from htmuon.linalg import Axis, Family

# The smallest value at which a method asks for the function of a family.
SMALLEST = 1e-4
# Of its largest value; a fit is of relative errors, and what is smaller would take part in it by its rounding alone.
LEAST_SHARE = 1e-5


@dataclass(frozen=True)
class Function:
    """The map of a Python function `f`: `U f(S / sigma_1) V^T`.

    Not part of the registry by itself: state_dicts hold numbers and names, not functions. To train with it, give it a
    name,

        @htmuon.spectral.MAPS.register("soft_sign")
        def soft_sign(power):
            return htmuon.spectral.Function(lambda x: x / (x + 0.05))

    after which `htmuon.HTMuon(groups, spectral_map="soft_sign")` uses it.

    `method="polynomial"` fits it once, and how well depends on how smooth it is over `log x`: below 1 % for soft signs
    and knees, several percent at a corner, more at a step. `htmuon.linalg.Polynomial().fit_error(Function(f))` is the
    largest relative error. A function that is zero or below 1e-5 of its largest value somewhere in [1e-4, 1], changes
    its sign, is not finite, looks at more than each value alone, or holds tensors of an accelerator, is not fitted:
    `auto` takes `eigh` then. A function with the values of one before is not fitted again; one that moves with a
    schedule is, at every step.

    Args:
        function: elementwise on tensors `[*batch, r]` of values in (0, 1]; it is not called with zeros, zero directions
            stay zero.

    Example:
        >>> import torch, htmuon
        >>> halve = htmuon.spectral.Function(lambda x: 0.5 * x)
        >>> htmuon.spectral_map(torch.diag(torch.tensor([2.0, 1.0])), halve, method="eigh").diagonal().tolist()
        [0.5, 0.25]
        >>> soft_sign = htmuon.spectral.Function(lambda x: x / (x + 0.05))
        >>> htmuon.linalg.Polynomial().fit_error(soft_sign) < 0.01
        True
    """

    function: Callable[[Tensor], Tensor]

    power = None
    degree = 0.0

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"a Function needs a function of tensors; got {self.function!r}. Pass lambda x: x / (x + 0.1)."
            )

    def at(self, shape: tuple[int, ...]) -> Self:
        """The same for all shapes."""
        return self

    @property
    def family(self) -> Family | None:
        """The function of `e^t x`, t from 0 to 2; none where relative errors of it make no sense."""
        return _stretched(_Sampled(self))

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """`f(ratio x)`."""
        return (ratio.log(),), 1.0

    def __call__(self, relative: Tensor) -> Tensor:
        """`f(x)`."""
        value: Tensor | float = self.function(relative)
        return value if isinstance(value, Tensor) else torch.full_like(relative, value)


class _Sampled:
    """A function that equals another with the same values: maps are made again at every step, and fitted once.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        points = torch.linspace(math.log(SMALLEST), 0.0, 400, dtype=torch.float64).exp()
        self.values: tuple[float, ...] = ()
        try:
            values, fewer = function(points), function(points[::2])
        except RuntimeError:  # it holds tensors of an accelerator, such as a scheduled power: the host cannot fit it
            return
        # Each value from one alone; vector instructions may round it otherwise among others.
        if values.shape == points.shape and torch.allclose(values[::2], fewer, rtol=1e-12, equal_nan=True):
            self.values = tuple(values.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Sampled) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)

    def has_relative_error(self) -> bool:
        """Whether the values are finite, of one sign, and none of them far below the others."""
        if not self.values or not all(map(math.isfinite, self.values)):
            return False
        sizes = [math.copysign(1.0, self.values[-1]) * value for value in self.values]
        return bool(min(sizes) > LEAST_SHARE * max(sizes))


@lru_cache(maxsize=64)
def _stretched(sampled: _Sampled) -> Family | None:
    """A function at all ratios of a bound to the largest singular value, which is never above `r^(1/8)`."""
    if not sampled.has_relative_error():
        return None
    return Family(lambda x, t: _continued(sampled.function, t.exp() * x), (Axis(0.0, 2.0, 41),))


def _continued(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`f(x)`, and `f(1)^2 / f(1 / x)` above 1: smooth in log-log, where no singular value lies but a polynomial passes.

    Powers continue as themselves.
    """
    inside = function(torch.minimum(x, 1 / x))
    top = function(torch.ones_like(x))
    return torch.where(x > 1, top.square() / inside, inside)
