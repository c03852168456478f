"""The coefficients of the quintic steps for an exponent: numbers, or 0-d arrays for one that only the device knows."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import torch

from htmuon._checks import plain
from htmuon.linalg.fit import NEIGHBOURS
from htmuon.linalg.quintics import Recipe, Recipes, recipes
from htmuon.spectral.base import POWER_RANGE, check_power

# A Python number, or a 0-d array, which may be traced.
Exponent: TypeAlias = float | jax.Array


def exponent_of(power: Any) -> Exponent:
    """The exponent as a Python number where it is one; an array is not read, and moved into [-1, 1].

    Raises:
        TypeError: neither a number nor a 0-d array.
        ValueError: a number outside [-1, 1].
    """
    power = plain(power)
    if not isinstance(power, jax.Array):
        check_power(power)
        return float(power)
    if power.ndim != 0 or not jnp.isrealobj(power):
        raise TypeError(
            f"power must be a number or a 0-d real array; got shape {power.shape} and dtype {power.dtype}. Pass a "
            "Python float such as 0.125."
        )
    return jnp.clip(power.astype(jnp.promote_types(power.dtype, jnp.float32)), *POWER_RANGE)


def recipe_of(steps: int, power: Exponent) -> Recipe:
    """The recipe of a power, as `htmuon.linalg.quintics.Recipes.at` finds it for torch.

    Example:
        >>> len(recipe_of(5, 0.125).steps), len(recipe_of(5, jnp.asarray(0.125)).weights)
        (4, 4)
    """
    table = recipes(steps)
    if isinstance(power, jax.Array):
        return table.recipe(tuple(_interpolated(table, power)))
    return table.at(power, torch.device("cpu"))


def _interpolated(table: Recipes, power: jax.Array) -> jax.Array:
    """All coefficients in a row, by Lagrange's interpolation through the nearest powers of the table."""
    [axis] = table.coefficients.family.axes
    rows = jnp.asarray(table.coefficients.table.numpy(), dtype=power.dtype)
    place = (power - axis.low) * ((axis.count - 1) / (axis.high - axis.low))
    first = jnp.clip(jnp.floor(place) - (NEIGHBOURS // 2 - 1), 0, axis.count - NEIGHBOURS)
    nodes = jnp.arange(NEIGHBOURS)
    # [nodes, others]: the factors of each node's share, 1 in its own place.
    factors = (place - first - nodes) / jnp.where(nodes[:, None] == nodes, 1, nodes[:, None] - nodes)
    shares = jnp.prod(jnp.where(nodes[:, None] == nodes, 1, factors), axis=1)
    return jnp.sum(shares[:, None] * rows[first.astype(jnp.int32) + nodes], axis=0)
