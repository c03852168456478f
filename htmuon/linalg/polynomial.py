"""The accelerator default: any function of the singular values from matrix products alone."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from htmuon._checks import known
from htmuon._registry import unknown_name
from htmuon._typing import PRECISIONS, Precision
from htmuon.kernels import aligned, aligned_sides, computes_half, gram, multiplies_float16, symmetric_product
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
from htmuon.linalg.fit import Fit, fit, member_error, minimax_weights
from htmuon.linalg.levels import LEVELS, Levels
from htmuon.linalg.plan import Plan, cheapest
from htmuon.linalg.strips import multiplied, strips, total

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
POWER_STEPS = 2
CHEBYSHEV_STEPS = 4
# The reciprocal of the plastic number: irrational, and far from fractions of small numbers.
CHIRP = 0.7548776662466927


class Weights(NamedTuple):
    """The weights of the nested form, `L + 1` each, as 0-d tensors or `[batch, 1, 1]`."""

    c: tuple[Tensor, ...]
    u: tuple[Tensor, ...]
    v: tuple[Tensor, ...]

    @classmethod
    def of(cls, flat: Tensor, dtype: torch.dtype) -> "Weights":
        """The weights in `[*batch, 3 L + 3]`, in the order of `Levels.features`."""
        columns = flat.to(dtype).unbind(-1) if flat.ndim == 1 else flat.to(dtype)[..., None, None].unbind(-3)
        count = len(columns) // 3
        return cls(columns[:count], columns[count : 2 * count], columns[2 * count :])


class Start(NamedTuple):
    """A stack of matrices at the scale on which the levels work.

    `X_0 = matrix / bound`, with `bound` never below the largest singular value: `norm_F(A^2)^(1/4)`, which costs a
    product that the first level needs anyway, and is close to it unless many singular values are.

    Attributes:
        matrix: `[batch, m, n]` in the dtype of the products, `aligned`.
        gram: `A_0`, of X_0.
        square: `A_0^2`.
        bound: `[batch, 1, 1]`.
        sigma_1: `[batch, 1, 1]`, the largest singular value of `matrix`, to two percent.
        norm: the Frobenius norm of `matrix`.
    """

    matrix: Tensor
    gram: Tensor
    square: Tensor
    bound: Tensor
    sigma_1: Tensor
    norm: float


def start(scaled: Tensor, dtype: torch.dtype) -> tuple[Start, Tensor]:
    """Normalize a stack with entries of moderate size, in its memory; the second result is what it was divided by."""
    # With this norm the entries of A and of A^2 are in the range of float16 for every spectrum, a flat one included.
    target = scaled.shape[-2] ** 0.25
    scale = safe_divisor(torch.linalg.matrix_norm(scaled, keepdim=True)) / target
    matrix = aligned((scaled / scale if scaled.requires_grad else scaled.div_(scale)).to(dtype))
    outer = gram(matrix)
    square = symmetric_product(outer, outer)
    wide = compute_dtype(dtype)
    # Rounding of A can push its eigenvalues up, by a few units in the last place of their largest.
    slack = 1 + 4 * torch.finfo(dtype).eps
    bound = safe_divisor(torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True, dtype=wide)).sqrt() * slack
    initial = Start(
        matrix=matrix,
        gram=(outer / bound).to(dtype),
        square=(square / bound**2).to(dtype),
        bound=bound.sqrt(),
        sigma_1=top_eigenvalue(outer, square, wide).sqrt(),
        norm=target,
    )
    return initial, scale


def top_eigenvalue(outer: Tensor, square: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest eigenvalue of `A = outer` from `square = A^2`: `[batch, 1, 1]`, to four percent.

    Power iteration, and then a Chebyshev polynomial that is small up to what that found and grows above. From two
    starts: a unit vector where A^2 has its largest diagonal entry, near a direction that lives in few coordinates; and
    a chirp, which is as far from every constant, alternating or local direction as from any other.
    """
    place = torch.arange(square.shape[-1], dtype=torch.float32, device=square.device)
    chirp = torch.cos(2 * torch.pi * (place * (place * CHIRP).frac()).frac())
    local = place == square.diagonal(dim1=-2, dim2=-1).argmax(-1, keepdim=True)
    vectors = torch.stack([local.to(dtype), chirp.to(dtype).expand_as(local)], dim=-1)

    def quotient(product: Tensor) -> Tensor:
        """The larger Rayleigh quotient of the two vectors."""
        shares = (vectors * product).sum(-2, keepdim=True) / safe_divisor(vectors.square().sum(-2, keepdim=True))
        return shares.amax(-1, keepdim=True)

    for _ in range(POWER_STEPS):
        vectors = times(square, vectors)
        vectors = vectors / safe_divisor(vectors.norm(dim=-2, keepdim=True))
    product = times(square, vectors)
    edge = safe_divisor(quotient(product))
    before, vectors = vectors, (2 / edge) * product - vectors
    for _ in range(CHEBYSHEV_STEPS - 1):
        following = (4 / edge) * times(square, vectors) - 2 * vectors - before
        size = safe_divisor(following.norm(dim=-2, keepdim=True))
        before, vectors = vectors / size, following / size
    return quotient(times(outer, vectors))


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """A product in the dtype of the matrix, for vectors of a wider one."""
    return (matrix @ vectors.to(matrix.dtype)).to(vectors.dtype)


def add_to_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    """`matrix + value I`, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(value if isinstance(value, float) else value.squeeze(-1))
    return matrix


def nested(initial: Start, levels: Levels, weights: Weights, plan: Plan) -> tuple[Tensor, Tensor]:
    """The nested form: levels upward, then weights downward.

    Returns:
        Y as `[batch, m, n]`, and the traces of all `A_k` and of `A_L^2` as `[batch, L + 2]`.
    """
    wide = compute_dtype(initial.matrix.dtype)
    lift = 1 / initial.bound
    outers, steps, matrices = [initial.gram], [], {0: initial.matrix}
    last = max(plan.restarts, default=0)
    for k, (a0, a1, a2) in enumerate(levels.coefficients):
        outer = outers[-1]
        if k == 0:
            square = (outer * a1).add_(initial.square, alpha=a2)
        else:
            square = symmetric_product(outer, outer, outer, alpha=a2, beta=a1)
        steps.append(add_to_diagonal(square, a0))
        if k + 1 in plan.restarts:
            first = max(matrices)
            product = functools.reduce(symmetric_product, steps[first:])
            if first == 0:
                product = product * lift.to(product.dtype)
            if plan.folded and k + 1 == last:  # nothing but its Gram matrix is needed
                outers.append(total(gram(product @ piece) for piece in strips(matrices[first])))
            else:
                matrices[k + 1] = product @ matrices[first]
                outers.append(gram(matrices[k + 1]))
        else:
            outers.append(symmetric_product(symmetric_product(steps[k], outer), steps[k]))

    inner = symmetric_product(outers[-1], outers[-1]).mul_(weights.v[-1])
    inner = add_to_diagonal(inner.addcmul_(outers[-1], weights.u[-1]), weights.c[-1])
    parts = []
    for k in reversed(range(plan.levels)):
        if k + 1 in plan.restarts and not plan.folded:
            parts.append(inner @ matrices[k + 1])
            inner = outers[k] * weights.v[k]
        else:
            inner = inner.addcmul_(outers[k], weights.v[k])
        inner = symmetric_product(steps[k], inner).addcmul_(outers[k], weights.u[k])
        inner = add_to_diagonal(inner, weights.c[k])
    # In the dtype of lift, the wider one. Of X_0 nothing is needed any more.
    result = multiplied(inner, matrices[0]).to(wide).mul_(lift)
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
        """The exponent of the function, or None."""
        return self.function.power

    @property
    def family(self) -> Family | None:
        """The family of the function."""
        return self.function.family

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """Which member of its family the function is."""
        return self.function.parameters(ratio, stable_rank)

    def __call__(self, relative: Tensor) -> Tensor:
        """Weights by the function itself."""
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
        power = known(function.power)
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
        return Fitted(function, fit(levels, family), _table(levels, family, device), _rank_weights(levels, device))

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
        return Mapped(
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
