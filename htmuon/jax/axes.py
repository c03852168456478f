"""Leaves of a tree of parameters as matrices `[*batch, in, out]`, whatever the module stores."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax

from htmuon.jax.powers import check_real

Dims = int | Sequence[int]
# (inputs, outputs), as in `optax.contrib.MuonDimensionNumbers`: one dim or several for each; all others are the batch.
Axes = tuple[Dims, Dims]
AxesChoice: TypeAlias = Axes | Callable[[str, jax.Array], Axes] | None

REMEDY = (
    'Give the other leaves to another transformation: optax.multi_transform({"matrix": ..., "other": ...}, labels), or '
    "optax.masked(..., mask)"
)


class Layout(NamedTuple):
    """How a leaf lies as a stack of matrices.

    Attributes:
        order: its dims as batch, inputs, outputs.
        dims: the sizes in this order.
        shape: `[*batch, in, out]`.
    """

    order: tuple[int, ...]
    dims: tuple[int, ...]
    shape: tuple[int, ...]

    def matrices(self, leaf: jax.Array) -> jax.Array:
        """The leaf as `[*batch, in, out]`."""
        return leaf.transpose(self.order).reshape(self.shape)

    def leaf(self, matrices: jax.Array) -> jax.Array:
        """The inverse of `matrices`."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return matrices.reshape(self.dims).transpose(back)


def layout_of(path: Sequence[Any], leaf: jax.Array, axes: AxesChoice) -> Layout:
    """The layout of one leaf.

    Args:
        path: of JAX's keys.
        leaf: an array.
        axes: see `scale_by_spectral_power`.

    Raises:
        TypeError: the leaf is not real floating point.
        ValueError: it is no matrix, or the axes don't fit it.

    Example:
        >>> import jax.numpy as jnp
        >>> layout_of((), jnp.zeros((3, 3, 8, 16)), ((0, 1, 2), 3)).shape
        (72, 16)
    """
    name = name_of(path)
    check_real(leaf, f"leaf {name!r}")
    if leaf.ndim < 2:
        raise ValueError(
            f"every leaf must be a matrix [in, out] or a stack of them; got shape {leaf.shape} at {name!r}. {REMEDY}."
        )
    given: Any = axes(name, leaf) if callable(axes) else axes
    if given is None:
        if leaf.ndim > 3:
            raise ValueError(
                f"a leaf of more than three dims must come with its axes; got shape {leaf.shape} at {name!r}. Pass "
                "axes=((0, 1, 2), 3) for a kernel [height, width, in, out], or a function of the path and the leaf. "
                f"{REMEDY}."
            )
        given = (-2, -1)
    inputs, outputs = _dims(given, leaf.ndim, name)
    batch = tuple(dim for dim in range(leaf.ndim) if dim not in inputs + outputs)
    order = batch + inputs + outputs
    sizes = [tuple(leaf.shape[dim] for dim in dims) for dims in (batch, inputs, outputs)]
    return Layout(order, sum(sizes, ()), (*sizes[0], prod(sizes[1]), prod(sizes[2])))


def name_of(path: Sequence[Any]) -> str:
    """The path of a leaf as words: `layers/0/kernel`.

    Example:
        >>> [(path, _)], _ = jax.tree_util.tree_flatten_with_path({"layers": [1.0]})
        >>> name_of(path)
        'layers/0'
    """
    keys = ("key", "idx", "name")
    return "/".join(str(next((getattr(part, key) for key in keys if hasattr(part, key)), part)) for part in path)


def _dims(axes: Any, ndim: int, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dims of inputs and of outputs, counted from the first."""
    try:
        pair = [(dims,) if isinstance(dims, int) else tuple(dims) for dims in axes]
        flat = [dim + ndim if dim < 0 else dim for dims in pair for dim in dims]
    except TypeError:
        pair, flat = [], []
    valid = len(pair) == 2 and all(pair) and len(set(flat)) == len(flat) and all(0 <= dim < ndim for dim in flat)
    if not valid:
        raise ValueError(
            f"axes must be two sets of dims of the leaf, inputs and outputs, that share none; got {axes!r} for "
            f"{ndim} dims at {name!r}. Pass (-2, -1) for [*batch, in, out], (-1, -2) for [*batch, out, in]."
        )
    return tuple(flat[: len(pair[0])]), tuple(flat[len(pair[0]) :])
