"""The CPU default: any power for exactly the products of Muon's quintic steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import known
from htmuon._registry import unknown_name
from htmuon._typing import PRECISIONS, Precision
from htmuon.kernels import gram, multiplies_bfloat16, symmetric_product
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
from htmuon.linalg.nested import Start, start
from htmuon.linalg.quintics import STEPS, Coefficient, Recipe, recipes

DEFAULT_STEPS = 5


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scalar function with the coefficients of its steps.

    Attributes:
        function: the function.
        recipe: the coefficients.
    """

    function: ScalarFunction
    recipe: Recipe

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


@dataclass(frozen=True)
class Quintic(Method):
    """Muon's steps with coefficients for another power: the same products, any p in [-1, 1].

    With `A_k = X_k X_k^T` and `X_0 = M / bound`, L steps are

        X_{k+1} = a_k X_k + (b_k A_k + c_k A_k^2) X_k,   k = 0 ... L - 2
        Y = sum_k w_k X_k + (a I + b A_{L-1} + c A_{L-1}^2) X_{L-1}

    Every power has coefficients of its own, from a table (`benchmarks/design_quintics.py` found it) that is
    interpolated where a schedule passes between its powers. Singular values below the range go smoothly to zero.

    To a few percent, which is several times closer than Muon's own five steps are to the polar factor, and costs what
    they cost. Not for exact results: use `eigh`, or `polynomial` on an accelerator.

    Args:
        steps: 4 to 8; more are exact further down.
        precision: of the products: `bfloat16`, `float16` (both with float32 sums) or `float32`; by default bfloat16,
            but float32 on a processor that has no instructions for it.

    Raises:
        ValueError: no such steps or precision; when it is called, a function that it has no recipe for.
    """

    name: ClassVar[str] = "quintic"
    stack_elements: ClassVar[int] = 2**20
    steps: int = DEFAULT_STEPS
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps not in STEPS:
            raise ValueError(
                f"steps must be a whole number from {min(STEPS)} to {max(STEPS)}; got {self.steps!r}. "
                f"{DEFAULT_STEPS} is the default."
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, list(PRECISIONS))

    def require(self, function: ScalarFunction) -> None:
        """Raise ValueError unless the function is a power."""
        if function.power is None:
            raise ValueError(
                "method 'quintic' needs a power; this map is another function. Use method='polynomial', which fits "
                "smooth ones, or 'eigh', which computes every one."
            )

    def prepare(self, function: ScalarFunction, device: torch.device) -> Prepared:
        """The function with the coefficients of its power."""
        self.require(function)
        assert function.power is not None
        return Prepared(function, recipes(self.steps).at(function.power, device))

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply the power to the relative singular values."""
        ready = function if isinstance(function, Prepared) else self.prepare(function, matrix.device)
        assert ready.power is not None
        wide, tall = short_side_first(matrix)
        dtype = self._dtype(matrix)
        scaled, scale = unit_scale(wide.reshape(-1, *wide.shape[-2:]), dtype)
        initial, normalizer = start(scaled, dtype)
        mapped, traces = stepped(initial, ready.recipe)
        result = compute_dtype(matrix.dtype)
        # Relative to sigma_1, by which the bound is too large.
        factor = (initial.bound / safe_divisor(initial.sigma_1)) ** ready.power
        mapped = mapped[:, : wide.shape[-2], : wide.shape[-1]].to(result) * factor.to(result)
        mapped = mapped.reshape(wide.shape)
        rank = sum(w * trace for w, trace in zip(ready.recipe.rank, traces, strict=True))
        batch = wide.shape[:-2]
        return Mapped(
            mapped.mT if tall else mapped,
            (initial.sigma_1 * normalizer * scale).to(result).reshape(*batch, 1, 1),
            rank.round().clamp(max=wide.shape[-2]).reshape(*batch, 1, 1),
        )

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error of the coefficients and of the products; the range for which they were made."""
        table = recipes(self.steps)
        looseness = min(matrix.shape[-2:]) ** 0.125  # of the bound of sigma_1, at most
        return Accuracy(table.error(power) + 0.05, min(1.0, table.smallest(power) * looseness))

    def _dtype(self, matrix: Tensor) -> torch.dtype:
        if self.precision is not None:
            return getattr(torch, self.precision)
        narrow = matrix.device.type != "cpu" or multiplies_bfloat16()
        return torch.bfloat16 if narrow else torch.float32

    def __str__(self) -> str:
        return f"quintic, {self.steps} steps" + (f", {self.precision}" if self.precision else "")


def stepped(initial: Start, recipe: Recipe) -> tuple[Tensor, list[Tensor]]:
    """The steps from `X_0` on: Y as `[batch, m, n]`, and the traces of the `A_k`, each `[batch, 1, 1]`."""
    alone = len(initial.matrix) == 1
    # One alone is no stack: a CPU multiplies one in bfloat16 half as fast as a matrix.
    x, outer, square = (one.squeeze(0) if alone else one for one in (initial.matrix, initial.gram, initial.square))
    x = x / initial.bound.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    step = scaled(square, recipe.steps[0][2])
    step = plus(step, recipe.steps[0][1], outer)
    total: Tensor | None = None
    traces = [trace(outer)]
    for k, (a, b, c) in enumerate(recipe.steps):
        if k > 0:
            outer = gram(x)
            traces.append(trace(outer))
            step = quadratic(outer, b, c)
        total = scaled(x, recipe.weights[k]) if total is None else plus(total, recipe.weights[k], x)
        x = multiplied(step, x, x, a)
    a, b, c = recipe.last
    outer = gram(x)
    traces.append(trace(outer))
    assert total is not None
    result = multiplied(quadratic(outer, b, c), x, plus(total, a, x), 1.0)
    return (result.unsqueeze(0) if alone else result), traces


def trace(matrix: Tensor) -> Tensor:
    """The trace of each matrix of a stack, `[batch, 1, 1]`, in float32 or wider."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=compute_dtype(matrix.dtype)).reshape(-1, 1, 1)


def scaled(matrix: Tensor, factor: Coefficient) -> Tensor:
    """`factor matrix`."""
    return matrix * _beside(factor, matrix)


def plus(matrix: Tensor, factor: Coefficient, other: Tensor) -> Tensor:
    """`matrix + factor other`, in the memory of `matrix`."""
    if isinstance(factor, float):
        return matrix.add_(other, alpha=factor)
    return matrix.addcmul_(other, _beside(factor, matrix))


def quadratic(outer: Tensor, b: Coefficient, c: Coefficient) -> Tensor:
    """`b A + c A^2` of a Gram matrix A."""
    if isinstance(b, float) and isinstance(c, float):
        return symmetric_product(outer, outer, outer, alpha=c, beta=b)
    return plus(scaled(symmetric_product(outer, outer), c), b, outer)


def multiplied(step: Tensor, x: Tensor, other: Tensor, factor: Coefficient) -> Tensor:
    """`step X + factor other`."""
    if isinstance(factor, float):
        add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
        return add_product(other, step, x, beta=factor)
    return plus(step @ x, factor, other)


def _beside(factor: Coefficient, matrix: Tensor) -> float | Tensor:
    """A coefficient in the dtype of a matrix."""
    return factor.to(matrix.dtype) if isinstance(factor, Tensor) else factor


METHODS.register(Quintic.name)(Quintic())
