"""The accelerator default: any function of the singular values from matrix products alone."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import host_may_look, known
from htmuon._registry import unknown_name
from htmuon._typing import PRECISIONS, Precision
from htmuon.kernels import aligned_sides, computes_half, multiplies_float16
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Family,
    Mapped,
    Method,
    ScalarFunction,
    compute_dtype,
    safe_divisor,
    short_side_first,
    unit_scale,
)
from htmuon.linalg.fit import Fit, Prepared, fit, fit_to_use, member_error, minimax_weights
from htmuon.linalg.levels import LEVELS, Levels
from htmuon.linalg.nested import Weights, nested, start
from htmuon.linalg.plan import Plan, cheapest

DEFAULT_LEVELS = 6
LOWEST_POWER = -0.25
# How many levels may follow each other on Gram matrices before the matrix is formed again: what the rounding of a Gram
# matrix hides has to be lifted above it before a level depends on it. A level lifts a squared singular value by ten.
LONGEST_SEGMENT: dict[Precision, int] = {"float32": 3, "float16": 2, "bfloat16": 1}
# Folding makes one factor of all levels that is as large as 1 / smallest, and its rounding falls on the large singular
# values too: a half precision cannot afford that, nor can float32 with more levels than these.
FOLDED_LEVELS: dict[Precision, int] = {"float32": 7, "float16": 0, "bfloat16": 0}
# What the products add to the relative error of a weight within the range, at most, for p >= 0.
ROUNDING: dict[Precision, float] = {"float32": 5e-3, "float16": 0.02, "bfloat16": 0.1}
# The smallest `sigma / sigma_1` for which that holds; below it rounding of the input hides singular values.
RESOLVED: dict[Precision, float] = {"float32": 0.0, "float16": 1e-3, "bfloat16": 4e-3}


@dataclass(frozen=True, eq=False)
class Fitted(Prepared):
    """A scalar function with the weights of its family, on the device where they are used.

    Attributes:
        fit: the fit of its family.
        table: `fit.table` on the device.
        rank_weights: with these, the traces of the `A_k` and of `A_L^2` sum up to the number of directions in range.
    """

    fit: Fit
    table: Tensor
    rank_weights: Tensor


@functools.lru_cache(maxsize=64)
def _table(levels: Levels, family: Family, device: torch.device) -> Tensor:
    return fit(levels, family).table.to(device)


@functools.lru_cache(maxsize=64)
def _rank_weights(levels: Levels, device: torch.device) -> Tensor:
    x = levels.grid()
    squares = [level**2 for level in levels.chain(x)]
    weights, _ = minimax_weights(torch.stack([*squares, squares[-1] ** 2], dim=-1), torch.ones_like(x))
    return weights.to(device)


@functools.lru_cache(maxsize=1)
def _say_that_float16_is_slow() -> None:
    warnings.warn(
        "precision='float16' is several times slower than float32 on this processor, which has no instructions for "
        "products of float16. Leave precision out on a CPU, or use 'bfloat16' where the processor has that.",
        stacklevel=2,
    )


@dataclass(frozen=True)
class Polynomial(Method):
    """Nested polynomials of Gram matrices: products alone, any smooth function, any p in [-1/4, 1].

    With `A_k = X_k X_k^T`, `X_{k+1} = q_k(A_k) X_k` for fixed quadratics q_k, and `X_0 = M / bound`:

        Y = R_0 X_0,   R_k = c_k + u_k A_k + q_k (R_{k+1} + v_k A_k),   R_L = c_L + u_L A_L + v_L A_L^2

    Only the weights c, u, v depend on the function; a minimax fit finds them once (`htmuon.linalg.fit`). Singular
    values below the range go smoothly to zero. 4 L + 1 products on the short side, of which half is computed, and two
    rectangular ones; rounding asks for more of these, which `plan` counts.

    Needs a function of each singular value alone, and one that is smooth: `fit_error` says how well it fits. Not for
    exact results: use `eigh`.

    Args:
        levels: 3 to 8; more are exact further down.
        precision: of the products: `float32` (without TF32), `float16` or `bfloat16` (with float32 sums); by default
            float16 on accelerators and float32 on the CPU.

    Raises:
        ValueError: no such levels or precision; when it is called, a function that it has no recipe for.
    """

    name: ClassVar[str] = "polynomial"
    levels: int = DEFAULT_LEVELS
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if type(self.levels) is not int or self.levels not in LEVELS:
            raise ValueError(
                f"levels must be a whole number from {min(LEVELS)} to {max(LEVELS)}; got {self.levels!r}. "
                f"{DEFAULT_LEVELS} is the default."
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, list(PRECISIONS))

    def require(self, function: ScalarFunction) -> None:
        """Raise ValueError unless the function has a family, and its exponent, if it has one, is at least -1/4."""
        if function.family is None:
            raise ValueError(
                "method 'polynomial' needs a function of each singular value alone that is finite, keeps its sign and "
                "stays above 1e-5 of its largest value on [1e-4, 1]; this map is not one. Use method='eigh'."
            )
        power = function.power
        if isinstance(power, Tensor):
            power = power.min().item() if power.numel() and host_may_look(power) else None
        if power is not None and power < LOWEST_POWER:
            raise ValueError(
                f"method 'polynomial' needs a power of at least {LOWEST_POWER}; got power={power}. Use method='eigh'."
            )

    def prepare(self, function: ScalarFunction, device: torch.device) -> Fitted:
        """The function with its weights on the device: fitted once, and then remembered."""
        self.require(function)
        if device.type == "cpu" and self.precision == "float16" and not multiplies_float16():
            _say_that_float16_is_slow()
        levels, family = LEVELS[self.levels], function.family
        assert family is not None
        return Fitted(
            function, fit_to_use(levels, family), _table(levels, family, device), _rank_weights(levels, device)
        )

    def plan(self, shape: tuple[int, ...], device: torch.device) -> Plan:
        """Which products are formed for matrices `[*batch, m, n]`."""
        *batch, short, long = *shape[:-2], *sorted(shape[-2:])
        precision = self._precision(device)
        dtype = getattr(torch, precision)
        side, _ = aligned_sides((*batch, short, long), dtype, device)
        return cheapest(
            self.levels,
            LONGEST_SEGMENT[precision],
            long / max(short, 1),
            folded=self.levels <= FOLDED_LEVELS[precision],
            halved=computes_half((*batch, side, side), dtype, device),
        )

    def constants(self) -> tuple[Callable[..., object], ...]:
        """The plan, a search in Python."""
        return (Polynomial.plan,)

    def fit_error(self, function: ScalarFunction) -> float:
        """The largest relative error within the range, before rounding: of a power, or of all members of a family.

        Example:
            >>> import htmuon
            >>> Polynomial(levels=6).fit_error(htmuon.spectral.Power(0.125)) < 0.0025
            True
        """
        self.require(function)
        levels, family = LEVELS[self.levels], function.family
        assert family is not None
        power = known(function.power)
        if power is not None:
            return member_error(levels, family, power)
        return fit(levels, family).error

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values."""
        fitted = function if isinstance(function, Fitted) else self.prepare(function, matrix.device)
        wide, tall = short_side_first(matrix)
        dtype = self._dtype(matrix)
        scaled, scale = unit_scale(
            wide.flatten(end_dim=-3) if wide.ndim > 2 else wide.unsqueeze(0), compute_dtype(dtype)
        )
        initial, normalizer = start(scaled, dtype)
        ratio = (initial.bound / safe_divisor(initial.sigma_1)).flatten()
        stable_rank = (initial.norm / safe_divisor(initial.sigma_1)).square().flatten()
        parameters, factor = fitted.parameters(ratio, stable_rank)
        weights = Weights.of(fitted.fit.weights(fitted.table, *parameters), dtype)
        mapped, traces = nested(initial, LEVELS[self.levels], weights, self.plan(wide.shape, matrix.device))
        mapped = mapped[:, : wide.shape[-2], : wide.shape[-1]]
        mapped *= factor[:, None, None] if isinstance(factor, Tensor) else factor
        rank = (traces @ fitted.rank_weights.to(traces.dtype)).round().clamp(max=wide.shape[-2])
        batch = wide.shape[:-2]
        result = compute_dtype(matrix.dtype)
        mapped = mapped.to(result).reshape(wide.shape)
        return Mapped.by_sigma_1(
            mapped.mT if tall else mapped,
            (initial.sigma_1 * normalizer * scale).to(result).reshape(*batch, 1, 1),
            rank.reshape(*batch, 1, 1),
        )

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error of the fit, between the points of its grid too, and of the products; the range of the levels."""
        levels, precision = LEVELS[self.levels], self._precision(matrix.device)
        x = levels.grid()
        _, error = minimax_weights(levels.features(x), x**power)
        looseness = min(matrix.shape[-2:]) ** 0.125  # of the bound of sigma_1, at most
        # Rounding is relative to the largest weights, which for p < 0 are those of the smallest singular values.
        rounding = ROUNDING[precision] * levels.smallest ** min(power, 0.0)
        return Accuracy(1.25 * float(error) + rounding, min(1.0, max(levels.smallest * looseness, RESOLVED[precision])))

    def __str__(self) -> str:
        return f"polynomial, {self.levels} levels" + (f", {self.precision}" if self.precision else "")

    def _precision(self, device: torch.device) -> Precision:
        return self.precision or ("float32" if device.type == "cpu" else "float16")

    def _dtype(self, matrix: Tensor) -> torch.dtype:
        """The dtype of the products; float64 matrices stay float64 unless a half precision is asked for."""
        precision = self._precision(matrix.device)
        return compute_dtype(matrix.dtype) if precision == "float32" else getattr(torch, precision)


METHODS.register(Polynomial.name)(Polynomial())
