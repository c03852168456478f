"""The quintic steps on arrays: from a matrix and a recipe to the mapped matrix."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch

from htmuon.linalg.quintic_steps import GRAM_FROM, short_steps
from htmuon.linalg.quintics import Recipe


class Stepped(NamedTuple):
    """What the steps make of a matrix.

    Attributes:
        matrix: `U (S / bound)^p V^T`, `[*batch, m, n]`, in float32 or wider.
        bound: of the singular values, `[*batch, 1, 1]`.
        outer: the last `A`, `[*batch, m, m]`.
    """

    matrix: jax.Array
    bound: jax.Array
    outer: jax.Array


def stepped(x: jax.Array, recipe: Recipe) -> Stepped:
    """All steps of a recipe, as `htmuon.linalg.quintic_steps.stepped` takes them.

    Products are made of matrices in the dtype of x, with sums in float32 or wider, in which all else is added up.

    Args:
        x: `[*batch, m, n]` with m <= n and entries of moderate size, in the dtype of the products.
        recipe: the coefficients.
    """
    (a, b, c), others, weights = recipe.as_squares()
    outer = _gram(x)
    square = _times(outer, outer)
    bound = _bound(square, x.dtype)
    wide = square.dtype
    step = square * (c / bound**5) + outer.astype(wide) * (b / bound**3)
    start, x = x, _times(_plus_diagonal(step, a / bound).astype(x.dtype), x).astype(x.dtype)
    total = start.astype(wide) * (weights[0] / bound)
    weighed = list(zip(others, weights[1:], strict=True))
    narrow = torch.bfloat16 if x.dtype == jnp.bfloat16 else torch.float32
    rows, columns = x.shape[-2:]
    short = short_steps(narrow, len(recipe.steps) + 1) if columns >= GRAM_FROM * rows else 0
    for (shift, rest), weight in weighed[: len(weighed) - short]:
        total += weight * x.astype(wide)
        x = _times(_squared(_gram(x), shift, rest), x).astype(x.dtype)
    # The others on the short side alone: there a step P takes Q to P Q and A to P A P.
    outer, taken, sum_taken = _gram(x), None, None
    for (shift, rest), weight in weighed[len(weighed) - short :]:
        if taken is None:
            total += weight * x.astype(wide)
        else:
            weighted = weight * taken.astype(wide)
            sum_taken = weighted if sum_taken is None else sum_taken + weighted
        step = _squared(outer, shift, rest)
        outer = _times(_times(step, outer).astype(x.dtype), step).astype(x.dtype)
        taken = step if taken is None else _times(step, taken).astype(x.dtype)
    step = _quadratic(outer, *recipe.last)
    if taken is not None:
        step = _times(step.astype(x.dtype), taken)
    if sum_taken is not None:
        step += sum_taken
    return Stepped(total + _times(step.astype(x.dtype), x), bound, outer)


def rank_of(outer: jax.Array, recipe: Recipe) -> jax.Array:
    """The number of directions in range, `[*batch, 1, 1]`, from the traces of powers of the last `A`."""
    wide = outer.astype(jnp.promote_types(outer.dtype, jnp.float32))
    total = partial(jnp.sum, axis=(-2, -1), keepdims=True)
    one, two, three = recipe.rank
    trace = total(wide * jnp.eye(outer.shape[-1], dtype=wide.dtype))
    found = one * trace + two * total(wide**2) + three * total(wide * _times(outer, outer))
    return jnp.clip(jnp.round(found), 0, outer.shape[-1])


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    """`A B`, with sums in float32 or wider, where the result stays; accelerators round no factor on the way."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide)


def _gram(x: jax.Array) -> jax.Array:
    return _times(x, x.mT).astype(x.dtype)


def _bound(square: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`norm_F(A^2)^(1/4)`, never below the largest singular value of X: `[*batch, 1, 1]`, about 1 for a zero matrix."""
    norm = jnp.linalg.norm(square, axis=(-2, -1), keepdims=True)
    # Rounding of A can push its eigenvalues up, by a few units in the last place of their largest.
    slack = (1 + 4 * float(jnp.finfo(dtype).eps)) ** 0.5
    return slack * jnp.sqrt(jnp.sqrt(jnp.where(norm > 0, norm, 1)))


def _plus_diagonal(matrix: jax.Array, value: float | jax.Array) -> jax.Array:
    """`matrix + value I`."""
    return matrix + value * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)


def _squared(outer: jax.Array, shift: float | jax.Array, rest: float | jax.Array) -> jax.Array:
    """`(A + shift I)^2 + rest I`, in the dtype of A."""
    shifted = _plus_diagonal(outer.astype(jnp.promote_types(outer.dtype, jnp.float32)), shift).astype(outer.dtype)
    return _plus_diagonal(_times(shifted, shifted), rest).astype(outer.dtype)


def _quadratic(outer: jax.Array, a: float | jax.Array, b: float | jax.Array, c: float | jax.Array) -> jax.Array:
    """`a I + A (b I + c A)`, in float32 or wider."""
    wide = outer.astype(jnp.promote_types(outer.dtype, jnp.float32))
    return _plus_diagonal(_times(outer, _plus_diagonal(c * wide, b).astype(outer.dtype)), a)
