"""A power of the singular values of an array: `U S^p V^T`."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from htmuon._registry import unknown_name
from htmuon.jax.coefficients import Exponent, exponent_of, recipe_of
from htmuon.jax.steps import Stepped, rank_of, stepped
from htmuon.linalg.quintic import DEFAULT_STEPS, Quintic
from htmuon.linalg.quintics import Recipe

Precision = Literal["float32", "bfloat16"]
Normalization = Literal["auto", "none", "rms"]


def spectral_power(
    matrix: jax.Array,
    power: float | jax.Array,
    *,
    steps: int = DEFAULT_STEPS,
    precision: Precision | None = None,
    normalization: Normalization = "none",
) -> jax.Array:
    """A power of the singular values by products alone: `U S^p V^T` for `M = U S V^T`, to a few percent.

    What `htmuon.spectral_power(..., method=htmuon.linalg.Quintic(steps, precision))` is for torch, with the same
    coefficients; `docs/quintic.md` has the errors and the range of singular values. It is compiled once for each shape:
    once for all exponents that are arrays, and once for each that is a number.

    Args:
        matrix: `[*batch, m, n]`, real floating point, any scale and rank.
        power: the exponent p in [-1, 1]: a number, or a 0-d array, which may be traced; an array outside of the range
            is moved to its edge.
        steps: how many, 4 to 8; more are exact further down.
        precision: of the factors of products: `float32` or `bfloat16`, both with float32 sums; by default bfloat16, but
            float32 where the default backend of JAX is the CPU. float64 stays float64 unless it is bfloat16.
        normalization: what fixes the size of the result: `none`, `rms` (Frobenius norm `sqrt(rank)`), `auto`, which is
            `rms` for p < 0 and else `none`.

    Returns:
        `[*batch, m, n]` in the dtype of `matrix`. A zero matrix maps to zero, one that holds NaN or infinity to NaN.

    Raises:
        TypeError: `matrix` is not a real floating-point array, or `power` neither a number nor a 0-d array.
        ValueError: fewer than two dimensions, a number outside [-1, 1], or no such steps, precision or normalization.

    Example:
        >>> matrix = jnp.diag(jnp.asarray([16.0, 1.0]))
        >>> bool(jnp.allclose(spectral_power(matrix, 0.25).diagonal(), jnp.asarray([2.0, 1.0]), rtol=0.05))
        True
    """
    check_settings(steps, precision, normalization)
    exponent = exponent_of(power)
    if not isinstance(matrix, jax.Array):
        raise TypeError(
            f"matrix must be a jax.Array [*batch, m, n]; got {type(matrix).__name__}. Pass jax.numpy.asarray(matrix)."
        )
    check_real(matrix, "matrix")
    if matrix.ndim < 2:
        raise ValueError(
            f"matrix must have shape [*batch, m, n]; got shape {matrix.shape}. Reshape it to a matrix first."
        )
    return powered(matrix, exponent, steps, precision, normalization).astype(matrix.dtype)


def check_real(array: jax.Array, name: str) -> None:
    """Raise TypeError unless an array is real floating point."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be real floating point; got dtype {array.dtype}. Convert it first.")


def check_settings(steps: Any, precision: Any, normalization: Any) -> None:
    """Raise TypeError or ValueError unless steps, precision and normalization exist."""
    if isinstance(steps, jax.Array):
        raise TypeError(
            "steps must be a Python number; got an array. With optax.inject_hyperparams pass static_args='steps'."
        )
    Quintic(steps)
    for kind, given, known in (
        ("precision", precision, (None, *get_args(Precision))),
        ("normalization", normalization, get_args(Normalization)),
    ):
        if given not in known:
            raise unknown_name(kind, given, [str(name) for name in known])


def powered(
    matrix: jax.Array,
    power: Exponent,
    steps: int,
    precision: Precision | None,
    normalization: Normalization,
    floor: float | jax.Array = 0.0,
) -> jax.Array:
    """The power of valid input, `[*batch, m, n]` in float32 or wider; compiled, once for each shape.

    Args:
        matrix: `[*batch, m, n]`.
        power: in [-1, 1].
        steps: as for `spectral_power`, and so are the next two.
        precision: of products.
        normalization: of the result.
        floor: matrices for which the bound of the largest singular value is not above it map to zero.
    """
    form = _OF_ARRAY if isinstance(power, jax.Array) else _OF_NUMBER
    result: jax.Array = form(matrix, power, steps, precision, normalization, floor)
    return result


def _powered(
    matrix: jax.Array,
    power: Exponent,
    steps: int,
    precision: Precision | None,
    normalization: Normalization,
    floor: float | jax.Array,
) -> jax.Array:
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    if matrix.size == 0:
        return matrix.astype(wide)
    tall = matrix.shape[-2] > matrix.shape[-1]
    recipe = recipe_of(steps, power)
    x, scale = _unit_scale((matrix.mT if tall else matrix).astype(wide))
    result = stepped(x.astype(_dtype_of_products(wide, precision)), recipe)
    reference = scale * result.bound.astype(wide)
    size = _size(result, reference, recipe, power, normalization)
    mapped = result.matrix.astype(wide) * jnp.where(reference > floor, size, 0)
    finite = jnp.all(jnp.isfinite(matrix), axis=(-2, -1), keepdims=True)
    return jnp.where(finite, mapped.mT if tall else mapped, jnp.nan).astype(wide)


_STATIC = ("steps", "precision", "normalization")
_OF_ARRAY = jax.jit(_powered, static_argnames=_STATIC)
_OF_NUMBER = jax.jit(_powered, static_argnames=(*_STATIC, "power"))


def _dtype_of_products(wide: jnp.dtype, precision: Precision | None) -> jnp.dtype:
    """In which matrices are multiplied."""
    if precision is None:
        precision = "float32" if wide == jnp.float64 or jax.default_backend() == "cpu" else "bfloat16"
    return wide if precision == "float32" else jnp.dtype(jnp.bfloat16)


def _unit_scale(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(matrix / scale, scale)`: a power of two, which rounds nothing, with the largest entry in [1, 2) after it."""
    largest = jnp.max(jnp.abs(matrix), axis=(-2, -1), keepdims=True)
    # Not below the smallest normal number, which a division by less would leave.
    tiny = jnp.finfo(matrix.dtype).tiny
    usable = jnp.isfinite(largest) & (largest > 0)
    _, exponent = jnp.frexp(jnp.where(usable, jnp.maximum(largest, tiny), 1))
    scale = jnp.ldexp(jnp.ones_like(largest), exponent - 1)
    return matrix / scale, scale


def _size(
    result: Stepped, reference: jax.Array, recipe: Recipe, power: Exponent, normalization: Normalization
) -> jax.Array:
    """The factor of each mapped matrix, `[*batch, 1, 1]`."""
    if normalization == "auto":
        if isinstance(power, jax.Array):
            free, published = (_size(result, reference, recipe, power, name) for name in ("rms", "none"))
            return jnp.where(power < 0, free, published)
        normalization = "rms" if power < 0 else "none"
    if normalization == "none":
        return reference**power
    norm = jnp.linalg.norm(result.matrix, axis=(-2, -1), keepdims=True).astype(reference.dtype)
    rank = rank_of(result.outer, recipe).astype(reference.dtype)
    return jnp.sqrt(rank) / jnp.where(norm > 0, norm, 1)
