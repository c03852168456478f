"""Any function of the singular values for at most the products of Muon's quintic steps, step by step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import known
from htmuon._registry import unknown_name
from htmuon._typing import PRECISIONS, Precision
from htmuon.kernels import aligned, gram, multiplies_bfloat16, symmetric_product
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
from htmuon.linalg.fit import Fit, Prepared, fit, fit_to_use
from htmuon.linalg.nested import top_eigenvalue
from htmuon.linalg.quintic_steps import GRAM_FROM, bound_of, rank_of, short_steps, stepped, trace
from htmuon.linalg.quintics import STEPS, Chain, Coefficient, Recipe, recipes

DEFAULT_STEPS = 5
# What the products add to the relative error of a weight within the range, at most, for p >= 0.
ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
# The smallest `sigma / sigma_1` for which that holds; below it rounding of the input hides singular values.
RESOLVED = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@dataclass(frozen=True, eq=False)
class Coefficients(Prepared):
    """A scalar function with the coefficients of its steps.

    Attributes:
        recipe: the coefficients of a power; None for any other function, whose weights depend on each matrix.
        weights: the chain, the fit of the family, and its table on the device, from which they come.
    """

    recipe: Recipe | None
    weights: tuple[Chain, Fit, Tensor] | None = None


@lru_cache(maxsize=64)
def _table(steps: int, family: Family, device: torch.device) -> Tensor:
    return fit(recipes(steps).chain, family).table.to(device)


@dataclass(frozen=True)
class Quintic(Method):
    """Muon's steps with other coefficients: any power in [-1, 1], or any smooth function, for the same products.

    With `A_k = X_k X_k^T` and `X_0 = M / bound`, L steps are

        X_{k+1} = a_k X_k + (b_k A_k + c_k A_k^2) X_k,   k = 0 ... L - 2
        Y = sum_k w_k X_k + (a I + b A_{L-1} + c A_{L-1}^2) X_{L-1}

    The last steps of a long matrix are made on its short side alone (`quintic_steps.stepped`), which is fewer products.

    Every power has coefficients of its own, from a table (`benchmarks/design_quintics.py` found it) that is
    interpolated where a schedule passes between its powers. Other functions share steps, and a minimax fit finds their
    weights once (`htmuon.linalg.fit`). Singular values below the range go smoothly to zero.

    A few percent from the power, which is several times closer than Muon's own five steps are to the polar factor. Not
    for exact results: use `eigh`, or `polynomial` on an accelerator.

    Args:
        steps: how many; more are exact further down.
        precision: of the products: `bfloat16`, `float16` (both with float32 sums) or `float32`; by default bfloat16,
            but float32 on a processor that has no instructions for it.

    Raises:
        ValueError: no such steps or precision; when it is called, a function that it has no recipe for.
    """

    name: ClassVar[str] = "quintic"
    # As for `newton_schulz`: small matrices in stacks that fit in a cache.
    stack_elements: ClassVar[int] = 2**18
    steps: int = DEFAULT_STEPS
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps not in STEPS:
            raise ValueError(f"steps must be one of {', '.join(map(str, STEPS))}; got {self.steps!r}.")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, list(PRECISIONS))

    def require(self, function: ScalarFunction) -> None:
        """Raise ValueError unless the function is a power or has a family."""
        if function.power is None and function.family is None:
            raise ValueError(
                "method 'quintic' needs a power, or a function of each singular value alone that is finite, keeps its "
                "sign and stays above 1e-5 of its largest value on [1e-4, 1]; this map is neither. Use method='eigh'."
            )

    def prepare(self, function: ScalarFunction, device: torch.device) -> Coefficients:
        """The function with its coefficients; a fit is made once, and then remembered."""
        self.require(function)
        if function.power is not None:
            return Coefficients(function, recipes(self.steps).at(function.power, device))
        family = function.family
        assert family is not None
        chain = recipes(self.steps).chain
        return Coefficients(function, None, (chain, fit_to_use(chain, family), _table(self.steps, family, device)))

    def fit_error(self, function: ScalarFunction) -> float:
        """The largest relative error within the range, before rounding: of a power, or of all members of a family.

        Example:
            >>> import htmuon
            >>> Quintic().fit_error(htmuon.spectral.Power(0.125)) < 0.03
            True
        """
        self.require(function)
        power = known(function.power)
        if power is not None:
            return recipes(self.steps).range_of(power)[1]
        if function.power is not None:
            return recipes(self.steps).coefficients.error
        assert function.family is not None
        return fit(recipes(self.steps).chain, function.family).error

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply a power to the singular values relative to a bound, any other function to those by the largest."""
        ready = function if isinstance(function, Coefficients) else self.prepare(function, matrix.device)
        wide, tall = short_side_first(matrix)
        dtype, result = self.dtype_of_products(matrix.dtype, matrix.device), compute_dtype(matrix.dtype)
        x, scale = unit_scale(
            wide.reshape(-1, *wide.shape[-2:]), dtype if dtype == torch.bfloat16 else compute_dtype(dtype)
        )
        if dtype == torch.float16:  # so that entries of A^2 are in its range, whatever the spectrum
            norm = safe_divisor(torch.linalg.matrix_norm(x, keepdim=True)) / x.shape[-2] ** 0.25
            x, scale = (x / norm).to(dtype), scale * norm
        # One alone is no stack: a CPU multiplies one in bfloat16 half as fast as a matrix. Contiguous, as the products
        # are to which it is added.
        x = aligned(x.squeeze(0)).contiguous()
        outer = gram(x)
        square = symmetric_product(outer, outer)
        bound = bound_of(square)
        unit = scale.to(result).reshape(*wide.shape[:-2], 1, 1)

        def sigma_1() -> Tensor:
            return top_eigenvalue(outer, square, result).sqrt().reshape(unit.shape) * unit

        if ready.recipe is None:
            reference = sigma_1()
            recipe = self._fitted(ready, outer, bound, reference / unit)
        else:
            recipe = ready.recipe
            reference = unit * (bound.to(result).reshape(unit.shape) if isinstance(bound, Tensor) else bound)
        rows, columns = x.shape[-2:]
        short = short_steps(dtype, self.steps) if columns >= GRAM_FROM * rows else 0
        mapped, inner = stepped(x, outer, square, bound, recipe, short)
        mapped = mapped[..., : wide.shape[-2], : wide.shape[-1]].to(result).reshape(wide.shape)

        def rank() -> Tensor:
            return rank_of(inner, recipe).round().clamp(0, wide.shape[-2]).to(result).reshape(unit.shape)

        return Mapped(mapped.mT if tall else mapped, reference, sigma_1, rank)

    def _fitted(self, ready: Coefficients, outer: Tensor, bound: Coefficient, sigma_1: Tensor) -> Recipe:
        """The recipe of a function that is no power, with weights for each matrix."""
        assert ready.weights is not None
        chain, fitted, table = ready.weights
        top = safe_divisor(sigma_1).flatten()
        ratio = (bound.flatten() if isinstance(bound, Tensor) else bound) / top
        stable_rank = trace(outer).flatten() / top**2
        parameters, factor = ready.parameters(ratio, stable_rank)
        weights = fitted.weights(table, *parameters)
        weights = (weights * (factor.unsqueeze(-1) if isinstance(factor, Tensor) else factor)).to(sigma_1.dtype)
        # As a column for each matrix of a stack; 0-d for one that is alone.
        columns = weights.expand(len(top), -1).unbind(-1)
        shape = (-1, 1, 1) if outer.ndim == 3 else ()
        return chain.recipe(tuple(column.reshape(shape) for column in columns))

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error of the coefficients and of the products; the range for which they were made."""
        dtype = self.dtype_of_products(matrix.dtype, matrix.device)
        smallest, error = recipes(self.steps).range_of(power)
        looseness = min(matrix.shape[-2:]) ** 0.125  # of the bound of sigma_1, at most
        # Rounding is relative to the largest weights, which for p < 0 are those of the smallest singular values.
        rounding = ROUNDING[dtype] * smallest ** min(power, 0.0)
        return Accuracy(error + rounding, min(1.0, max(smallest * looseness, RESOLVED[dtype])))

    def constants(self) -> tuple[Callable[..., object], ...]:
        """The dtype of the products, which asks the processor what it can."""
        return (Quintic.dtype_of_products,)

    def dtype_of_products(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """In which the products are made; float64 stays float64 unless a half precision is asked for."""
        if dtype == torch.float64 and self.precision is None:
            return dtype
        narrow = device.type != "cpu" or multiplies_bfloat16()
        precision = self.precision or ("bfloat16" if narrow else "float32")
        return compute_dtype(dtype) if precision == "float32" else getattr(torch, precision)

    def __str__(self) -> str:
        return f"quintic, {self.steps} steps" + (f", {self.precision}" if self.precision else "")


METHODS.register(Quintic.name)(Quintic())
