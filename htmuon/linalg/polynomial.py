"""The accelerator default: any function of the singular values from matrix products alone."""

import functools
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from htmuon._registry import unknown_name
from htmuon._typing import PRECISIONS, Precision
from htmuon.kernels import computes_half, gram, symmetric_product
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    positive,
    short_side_first,
    unit_scale,
    working,
)
from htmuon.linalg.families import Family
from htmuon.linalg.fit import Fit, fit, member_error, minimax_weights
from htmuon.linalg.levels import LEVELS, Levels
from htmuon.linalg.plan import Plan, cheapest

DEFAULT_LEVELS = 6
LOWEST_POWER = -0.25
# How many levels may follow each other on Gram matrices before the matrix itself is formed anew: what the rounding of a
# Gram matrix hides has to be lifted above it before a level depends on it. A level lifts a squared singular value by
# ten.
LONGEST_SEGMENT: dict[Precision, int] = {"float32": 3, "float16": 2, "bfloat16": 1}
# What the products add to the relative error of a weight within the range, at most.
ROUNDING: dict[Precision, float] = {"float32": 5e-3, "float16": 0.02, "bfloat16": 0.15}
POWER_ITERATIONS = 3


class Weights(NamedTuple):
    """The weights of the nested form, `L + 1` each, as 0-d tensors or `[batch, 1, 1]`."""

    c: tuple[Tensor, ...]
    u: tuple[Tensor, ...]
    v: tuple[Tensor, ...]

    @classmethod
    def of(cls, flat: Tensor, dtype: torch.dtype) -> "Weights":
        """From `[*batch, 3 L + 3]`, in the order of `Levels.features`."""
        columns = flat.to(dtype).unbind(-1) if flat.ndim == 1 else flat.to(dtype)[..., None, None].unbind(-3)
        count = len(columns) // 3
        return cls(columns[:count], columns[count : 2 * count], columns[2 * count :])


class Start(NamedTuple):
    """A stack of matrices at the scale on which the levels work.

    `X_0 = matrix / bound`, with `bound` never below the largest singular value: `norm_F(A^2)^(1/4)`, which costs a
    product that the first level needs anyway, and is close to it unless many singular values are.

    Attributes:
        matrix: `[batch, m, n]` in the dtype of the products.
        gram: `A_0`, of X_0.
        square: `A_0^2`.
        bound: `[batch, 1, 1]`.
        sigma_1: `[batch, 1, 1]`, an estimate of the largest singular value of `matrix` by power iteration.
        norm: the Frobenius norm of `matrix`.
    """

    matrix: Tensor
    gram: Tensor
    square: Tensor
    bound: Tensor
    sigma_1: Tensor
    norm: float


def start(scaled: Tensor, dtype: torch.dtype) -> tuple[Start, Tensor]:
    """Normalize a stack with entries of moderate size; the second result is what it was divided by."""
    # With this norm the entries of A and of A^2 are in the range of float16 for every spectrum, a flat one included.
    target = scaled.shape[-2] ** 0.25
    scale = positive(torch.linalg.matrix_norm(scaled, keepdim=True)) / target
    matrix = (scaled / scale).to(dtype)
    outer = gram(matrix)
    square = symmetric_product(outer, outer)
    wide = working(dtype)
    bound = positive(torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True, dtype=wide)).sqrt()
    largest = square.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    vector = square.gather(-1, largest.expand(*square.shape[:-1], 1))
    for _ in range(POWER_ITERATIONS):
        vector = square @ (vector / positive(vector.norm(dim=-2, keepdim=True)))
    quotient = (vector * (outer @ vector)).sum(-2, keepdim=True, dtype=wide)
    quotient = quotient / positive(vector.square().sum(-2, keepdim=True, dtype=wide))
    begun = Start(
        matrix=matrix,
        gram=(outer / bound).to(dtype),
        square=(square / bound**2).to(dtype),
        bound=bound.sqrt(),
        sigma_1=torch.minimum(quotient, bound).sqrt(),
        norm=target,
    )
    return begun, scale


def add_to_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    """`matrix + value I`, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(value if isinstance(value, float) else value.squeeze(-1))
    return matrix


def nested(begun: Start, levels: Levels, weights: Weights, plan: Plan) -> tuple[Tensor, Tensor]:
    """The nested form: levels upward, then weights downward.

    Returns:
        Y as `[batch, m, n]`, and the traces of all `A_k` and of `A_L^2` as `[batch, L + 2]`.
    """
    wide = working(begun.matrix.dtype)
    lift = 1 / begun.bound
    outers, steps, matrices = [begun.gram], [], {0: begun.matrix}
    for k, (a0, a1, a2) in enumerate(levels.coefficients):
        outer = outers[-1]
        square = begun.square * a2 + outer * a1 if k == 0 else symmetric_product(outer, outer, outer, alpha=a2, beta=a1)
        steps.append(add_to_diagonal(square, a0))
        if k + 1 in plan.restarts:
            first = max(matrices)
            matrix = functools.reduce(symmetric_product, steps[first:]) @ matrices[first]
            matrices[k + 1] = matrix * lift.to(matrix.dtype) if first == 0 else matrix
            outers.append(gram(matrices[k + 1]))
        else:
            outers.append(symmetric_product(symmetric_product(steps[k], outer), steps[k]))

    inner = symmetric_product(outers[-1], outers[-1]) * weights.v[-1]
    inner = add_to_diagonal(inner.addcmul_(outers[-1], weights.u[-1]), weights.c[-1])
    parts = []
    for k in reversed(range(plan.levels)):
        if k + 1 in plan.restarts and not plan.folded:
            parts.append((inner @ matrices[k + 1]).to(wide))
            inner = outers[k] * weights.v[k]
        else:
            inner = inner.addcmul_(outers[k], weights.v[k])
        inner = symmetric_product(steps[k], inner).addcmul_(outers[k], weights.u[k])
        inner = add_to_diagonal(inner, weights.c[k])
    result = (inner @ matrices[0]).to(wide).mul_(lift)
    for part in parts:
        result += part
    traces = [outer.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=wide) for outer in outers]
    traces.append(torch.linalg.vector_norm(outers[-1], dim=(-2, -1), dtype=wide).square())
    return result, torch.stack(traces, dim=-1)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A scalar function with the weights of its family, on the device where they are used.

    Attributes:
        function: the function.
        fit: the fit of its family.
        table: `fit.table` on the device.
        rank_weights: with these, the traces of the `A_k` and of `A_L^2` sum up to the number of directions in range.
    """

    function: ScalarFunction
    fit: Fit
    table: Tensor
    rank_weights: Tensor

    @property
    def power(self) -> float | Tensor | None:
        """That of the function."""
        return self.function.power

    @property
    def family(self) -> Family | None:
        """That of the function."""
        return self.function.family

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """Those of the function."""
        return self.function.parameters(ratio, stable_rank)

    def __call__(self, relative: Tensor) -> Tensor:
        """The function itself."""
        return self.function(relative)


@functools.lru_cache(maxsize=64)
def _table(levels: Levels, family: Family, device: torch.device) -> Tensor:
    return fit(levels, family).table.to(device)


@functools.lru_cache(maxsize=64)
def _rank_weights(levels: Levels, device: torch.device) -> Tensor:
    x = levels.grid()
    squares = [level**2 for level in levels.chain(x)]
    weights, _ = minimax_weights(torch.stack([*squares, squares[-1] ** 2], dim=-1), torch.ones_like(x))
    return weights.to(device)


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
    """

    name: ClassVar[str] = "polynomial"
    levels: int = DEFAULT_LEVELS
    precision: Precision | None = None

    def configured(self, levels: int | None, precision: Precision | None) -> "Polynomial":
        """With other settings."""
        if levels is not None and (type(levels) is not int or levels not in LEVELS):
            raise ValueError(
                f"levels must be a whole number from {min(LEVELS)} to {max(LEVELS)}; got {levels!r}. "
                f"{DEFAULT_LEVELS} is the default."
            )
        if precision is not None and precision not in PRECISIONS:
            raise unknown_name("precision", precision, list(PRECISIONS))
        return replace(self, levels=levels or self.levels, precision=precision or self.precision)

    def require(self, function: ScalarFunction) -> None:
        """Raise ValueError unless the function has a family, and its exponent, if it has one, is at least -1/4."""
        if function.family is None:
            raise ValueError(
                "method 'polynomial' needs a function of each singular value alone that is finite, keeps its sign and "
                "stays above 1e-5 of its largest value on [1e-4, 1]; this map is not one. Use method='eigh'."
            )
        power = function.power
        if isinstance(power, int | float) and power < LOWEST_POWER:
            raise ValueError(
                f"method 'polynomial' needs a power of at least {LOWEST_POWER}; got power={power}. Use method='eigh'."
            )

    def prepare(self, function: ScalarFunction, device: torch.device) -> Fitted:
        """The function with its weights on the device: fitted once, and then remembered."""
        levels, family = LEVELS[self.levels], function.family
        assert family is not None
        return Fitted(function, fit(levels, family), _table(levels, family, device), _rank_weights(levels, device))

    def plan(self, shape: tuple[int, ...], device: torch.device) -> Plan:
        """Which products are formed for matrices `[*batch, m, n]`."""
        short, long = sorted(shape[-2:])
        precision = self._precision(device)
        return cheapest(
            self.levels,
            LONGEST_SEGMENT[precision],
            long / max(short, 1),
            # Folding makes one large factor of all levels, whose rounding a half precision cannot afford.
            folded=precision == "float32",
            halved=computes_half(short, getattr(torch, precision), device),
        )

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
        if isinstance(function.power, int | float):
            return member_error(levels, family, function.power)
        return fit(levels, family).error

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values."""
        fitted = function if isinstance(function, Fitted) else self.prepare(function, matrix.device)
        wide, tall = short_side_first(matrix)
        dtype = self._dtype(matrix)
        scaled, scale = unit_scale(wide.flatten(end_dim=-3) if wide.ndim > 2 else wide.unsqueeze(0), working(dtype))
        begun, normalizer = start(scaled, dtype)
        ratio = (begun.bound / positive(begun.sigma_1)).flatten()
        stable_rank = (begun.norm / positive(begun.sigma_1)).square().flatten()
        parameters, factor = fitted.parameters(ratio, stable_rank)
        weights = Weights.of(fitted.fit.weights(fitted.table, *parameters), dtype)
        mapped, traces = nested(begun, LEVELS[self.levels], weights, self.plan(wide.shape, matrix.device))
        mapped *= factor[:, None, None] if isinstance(factor, Tensor) else factor
        rank = (traces @ fitted.rank_weights.to(traces.dtype)).round().clamp(max=wide.shape[-2])
        batch = wide.shape[:-2]
        result = working(matrix.dtype)
        mapped = mapped.to(result).reshape(wide.shape)
        return Mapped(
            mapped.mT if tall else mapped,
            (begun.sigma_1 * normalizer * scale).to(result).reshape(*batch, 1, 1),
            rank.reshape(*batch, 1, 1),
        )

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error of the fit, between the points of its grid too, and of the products; the range of the levels."""
        levels, precision = LEVELS[self.levels], self._precision(matrix.device)
        x = levels.grid()
        _, error = minimax_weights(levels.features(x), x**power)
        looseness = min(matrix.shape[-2:]) ** 0.125  # of the bound of sigma_1, at most
        return Accuracy(1.25 * float(error) + ROUNDING[precision], min(1.0, levels.smallest * looseness))

    def __str__(self) -> str:
        return f"polynomial, {self.levels} levels" + (f", {self.precision}" if self.precision else "")

    def _precision(self, device: torch.device) -> Precision:
        return self.precision or ("float32" if device.type == "cpu" else "float16")

    def _dtype(self, matrix: Tensor) -> torch.dtype:
        """Of the products; float64 matrices stay float64 unless a half precision is asked for."""
        precision = self._precision(matrix.device)
        return working(matrix.dtype) if precision == "float32" else getattr(torch, precision)


METHODS.register(Polynomial.name)(Polynomial())
