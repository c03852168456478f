"""The quintic steps themselves: from a matrix, its first products and a recipe to the mapped matrix."""

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon.kernels import gram, symmetric_product
from htmuon.linalg.base import compute_dtype, safe_divisor
from htmuon.linalg.nested import add_to_diagonal
from htmuon.linalg.quintics import Coefficient, Recipe

# Columns by rows from which the last steps are cheaper on the short side: one costs `2 m^2 n + m^3` multiplications on
# the whole matrix and `4 m^3` there, and sums between them, which stacks of small matrices feel.
GRAM_FROM = 2.5


def short_steps(dtype: torch.dtype, steps: int) -> int:
    """How many steps before the last are as exact on the short side as on the whole matrix.

    Rounding of A is relative to its largest eigenvalue, and every step there lifts it with the small ones.
    """
    return min(2, steps - 3) if dtype in (torch.float16, torch.bfloat16) else min(3, steps - 2)


def bound_of(square: Tensor) -> Coefficient:
    """`norm_F(A^2)^(1/4)`, never below the largest singular value of X: for one matrix a number, if the host may look.

    Args:
        square: `A^2 = (X X^T)^2`, `[m, m]` or `[batch, m, m]`.

    Returns:
        A number, or 0-d, or `[batch, 1, 1]`; about 1 for a zero matrix.
    """
    norm = torch.linalg.matrix_norm(square, keepdim=square.ndim == 3)
    # Rounding of A can push its eigenvalues up, by a few units in the last place of their largest.
    slack = (1 + 4 * torch.finfo(square.dtype).eps) ** 0.5
    if norm.ndim == 0 and host_may_look(norm):
        return float(slack * (norm.item() or 1.0) ** 0.25)
    bound: Tensor = safe_divisor(norm.to(compute_dtype(square.dtype))).sqrt().sqrt() * slack
    return bound


def stepped(
    x: Tensor, outer: Tensor, square: Tensor, bound: Coefficient, recipe: Recipe, short: int = 0
) -> tuple[Tensor, Tensor]:
    """All steps from `X_0 = x / bound`: Y, and the last `A`.

    The last ones can be made on the short side alone (the Gram form). With `X_k = Q X`, where X is the matrix at which
    it begins, `P = (A + s I)^2 + d I` takes one from `Q` and `A` to `P Q` and `P A P`: all of them are polynomials of
    one matrix, symmetric, and commute.

    Args:
        x: `[m, n]` or `[batch, m, n]`.
        outer: `A = x x^T`.
        square: `A^2`.
        bound: of the singular values of `x`.
        recipe: the coefficients.
        short: how many of the steps before the last are made on the short side.
    """
    (a, b, c), others, weights = recipe.as_squares()
    # Of x rather than of X_0, which is never formed.
    step = add_to_diagonal(plus(scaled(square, c / bound**5), b / bound**3, outer), a / bound)
    start, x = x, step.to(x.dtype) @ x
    weight = weights[0] / bound
    # In the memory of X, which nobody else has; a gradient needs it as it was.
    total = scaled(start, weight).to(x.dtype) if x.requires_grad else start.mul_(weight)
    weighed = list(zip(others, weights[1:], strict=True))
    first_short = len(weighed) - short
    for (shift, rest), weight in weighed[:first_short]:
        total = plus(total, weight, x)
        x = squared(gram(x), shift, rest) @ x
    outer, taken, sum_taken = gram(x), None, None
    for (shift, rest), weight in weighed[first_short:]:
        if taken is None:
            total = plus(total, weight, x)
        else:
            sum_taken = scaled(taken, weight).to(taken.dtype) if sum_taken is None else plus(sum_taken, weight, taken)
        step = squared(outer.clone(), shift, rest)
        # As a congruence: `P (P A)` is the same but for rounding, which it takes three times as far in bfloat16.
        outer = symmetric_product(symmetric_product(step, outer), step)
        taken = step if taken is None else symmetric_product(step, taken)
    step = quadratic(outer, *recipe.last)
    if taken is not None:
        step = symmetric_product(step, taken)
    if sum_taken is not None:
        step = step.add_(sum_taken)
    return (total.addmm_ if x.ndim == 2 else total.baddbmm_)(step, x), outer


def trace(matrix: Tensor) -> Tensor:
    """The trace, 0-d or `[batch]`, in float32 or wider."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=compute_dtype(matrix.dtype))


def rank_of(outer: Tensor, recipe: Recipe) -> Tensor:
    """The number of directions in range, from the traces of powers of the last A: 0-d or `[batch]`."""
    wide = outer.to(compute_dtype(outer.dtype))
    of_square = wide.square().sum((-2, -1))
    of_cube = (wide * symmetric_product(outer, outer)).sum((-2, -1))
    one, two, three = (c.flatten() if isinstance(c, Tensor) and c.ndim else c for c in recipe.rank)
    return one * trace(outer) + two * of_square + three * of_cube


def scaled(matrix: Tensor, factor: Coefficient) -> Tensor:
    """`factor matrix`; in the wider dtype, if there is a factor for each matrix of a stack."""
    return matrix * factor


def plus(matrix: Tensor, factor: Coefficient, other: Tensor) -> Tensor:
    """`matrix + factor other`, in the memory of `matrix`."""
    if isinstance(factor, Tensor):
        return matrix.addcmul_(other, factor.to(matrix.dtype))
    return matrix.add_(other, alpha=factor)


def squared(outer: Tensor, shift: Coefficient, rest: Coefficient) -> Tensor:
    """`(A + shift I)^2 + rest I` of a Gram matrix A, which is changed."""
    shifted = add_to_diagonal(outer, shift)
    return add_to_diagonal(symmetric_product(shifted, shifted), rest)


def quadratic(outer: Tensor, a: Coefficient, b: Coefficient, c: Coefficient) -> Tensor:
    """`a I + A (b I + c A)` of a Gram matrix A, in its dtype.

    The coefficients stay out of the product: oneDNN compiles one in bfloat16 anew, for milliseconds, for each new
    factor of a sum to add, as a schedule has at every step.
    """
    linear = add_to_diagonal(scaled(outer, c), b).to(outer.dtype)
    return add_to_diagonal(symmetric_product(outer, linear), a).to(outer.dtype)
