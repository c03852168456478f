"""HTMuon's update as a transformation of optax: momentum, the power of its singular values, the update scale."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from htmuon._checks import check_flag, check_number
from htmuon._registry import unknown_name
from htmuon._typing import ADJUST_LR_FNS, AdjustLrFn
from htmuon.jax.axes import AxesChoice, layout_of
from htmuon.jax.coefficients import Exponent, exponent_of
from htmuon.jax.powers import Normalization, Precision, check_settings, powered
from htmuon.linalg.quintic import DEFAULT_STEPS
from htmuon.optim.rules import FADED, update_scale


class SpectralPowerState(NamedTuple):
    """What `scale_by_spectral_power` remembers.

    Attributes:
        count: how many steps were taken, 0-d int32.
        momentum: the averages of the gradients, a tree like the parameters, in their dtypes.
    """

    count: jax.Array
    momentum: Any


def scale_by_spectral_power(
    power: float | jax.Array | Callable[[jax.Array], Any] = 0.125,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    normalization: Normalization = "auto",
    adjust_lr_fn: AdjustLrFn | None = "original",
    eps: float = 1e-7,
    steps: int = DEFAULT_STEPS,
    precision: Precision | None = None,
    axes: AxesChoice = None,
) -> optax.GradientTransformation:
    """HTMuon for optax: momentum matrices `U S V^T` become updates `U S^p V^T`.

    For a gradient G of a matrix `[in, out]`, `a = max(1, out / in)^0.5`:

        M <- beta M + (1 - beta) G
        N  = beta M + (1 - beta) G                  (Nesterov; else N = M)
        O  = U S^p V^T,  N = U S V^T                (then normalized)
        update = a O

    With `optax.add_decayed_weights(decay)` and `optax.scale_by_learning_rate(lr)` after it in a chain, it takes the
    steps of `htmuon.HTMuon(lr=lr, weight_decay=decay, method=htmuon.linalg.Quintic(steps, precision))`.

    Args:
        power: the exponent p in [-1, 1]: a number, a 0-d array, or a schedule of optax, a function of the number of
            steps before this one.
        momentum: beta, in [0, 1).
        nesterov: look one step ahead.
        normalization: what fixes the size of O: `none` (the published method: it moves with the p-th power of the
            gradient's scale), `rms` (the size of Muon's update), `auto`, which is `none` for p >= 0 and `rms` for
            p < 0.
        adjust_lr_fn: the scale a, as for `htmuon.HTMuon`: `original`, `match_rms_adamw` (needs `normalization="rms"`),
            `spectral_unclamped`, `rms_to_rms`, `none`.
        eps: a matrix whose gradient is smaller rests, as in `htmuon.HTMuon`: its momentum stays, its update is zero. An
            expert without tokens is one. Transformations after this one, such as weight decay, still move it.
        steps: quintic steps, 4 to 8.
        precision: of products, as for `spectral_power`.
        axes: the dims of inputs and of outputs of a leaf, `(inputs, outputs)`, each one or several; all others are a
            batch of matrices. `(-2, -1)` is `[*batch, in, out]`, as Flax stores a `Dense` and experts, and what None
            stands for in leaves of two or three dims; `(-1, -2)` is `[*batch, out, in]`; `((0, 1, 2), 3)` is a kernel
            of a convolution. Leaves that differ: a function of the path, `layers/0/kernel`, and the leaf, which
            returns such a pair, or None. Only the scale a tells inputs from outputs.

    Returns:
        A transformation of trees whose leaves all are matrices; the dtypes of the gradients stay.

    Raises:
        TypeError: a setting or a leaf has the wrong type.
        ValueError: a setting is out of range; or, in `init` and `update`, a leaf is no matrix or does not fit `axes`.

    Example:
        >>> optimizer = optax.chain(
        ...     scale_by_spectral_power(0.125), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.02)
        ... )
        >>> weights = {"kernel": jnp.eye(4, 8)}
        >>> updates, state = optimizer.update(weights, optimizer.init(weights), weights)
        >>> optax.apply_updates(weights, updates)["kernel"].shape
        (4, 8)

    Three-dimensional kernels of attention (`[embed, heads, head]`) are no stacks of matrices: say their axes. A
    gradient that is not finite makes an update of NaN: wrap the chain in `optax.apply_if_finite`.
    """
    check_settings(steps, precision, normalization)
    check_flag("nesterov", nesterov)
    if adjust_lr_fn is not None and adjust_lr_fn not in ADJUST_LR_FNS:
        raise unknown_name("adjust_lr_fn", adjust_lr_fn, list(ADJUST_LR_FNS))
    if adjust_lr_fn == "match_rms_adamw" and normalization != "rms":
        raise ValueError(
            f"adjust_lr_fn='match_rms_adamw' needs normalization='rms'; got {normalization!r}. Pass both, or "
            "adjust_lr_fn='original'."
        )
    # Arrays come from `optax.inject_hyperparams`, and are trusted.
    if not isinstance(momentum, jax.Array):
        check_number("momentum", momentum, below=1.0, remedy="Pass a float such as 0.95.")
    if not isinstance(eps, jax.Array):
        check_number("eps", eps, remedy="Pass a float such as 1e-7.")
    fixed = None if callable(power) else exponent_of(power)

    def one(
        path: Sequence[Any], gradient: jax.Array, average: jax.Array, exponent: Exponent
    ) -> tuple[jax.Array, jax.Array]:
        """The update and the new momentum of a leaf."""
        layout = layout_of(path, gradient, axes)
        wide = jnp.promote_types(gradient.dtype, jnp.float32)
        gradient, average = (layout.matrices(x) for x in (gradient, average))
        new, old = gradient.astype(wide), average.astype(wide)
        rows, columns = layout.shape[-2:]
        size = jnp.max(jnp.abs(new), axis=(-2, -1), keepdims=True, initial=0.0) * (rows * columns) ** 0.5
        rests = size <= eps
        moved = jnp.where(rests, average, (old + (1 - momentum) * (new - old)).astype(average.dtype))
        direction = moved.astype(wide)
        if nesterov:
            direction = new + momentum * (direction - new)
        mapped = powered(direction, exponent, steps, precision, normalization, FADED * eps)
        scale = update_scale((columns, rows), adjust_lr_fn)
        update = jnp.where(rests, 0, scale * mapped).astype(gradient.dtype)
        return layout.leaf(update), layout.leaf(moved)

    def init(params: Any) -> SpectralPowerState:
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            layout_of(path, jnp.asarray(leaf), axes)
        return SpectralPowerState(jnp.zeros((), jnp.int32), jax.tree_util.tree_map(jnp.zeros_like, params))

    def update(updates: Any, state: SpectralPowerState, params: Any = None) -> tuple[Any, SpectralPowerState]:
        exponent = exponent_of(power(state.count)) if callable(power) else fixed
        leaves, tree = jax.tree_util.tree_flatten_with_path(updates)
        averages = tree.flatten_up_to(state.momentum)
        made = [
            one(path, jnp.asarray(leaf), mean, exponent) for (path, leaf), mean in zip(leaves, averages, strict=True)
        ]
        moved, momenta = ([pair[i] for pair in made] for i in (0, 1))
        count = optax.safe_increment(state.count)
        return tree.unflatten(moved), SpectralPowerState(count, tree.unflatten(momenta))

    return optax.GradientTransformation(init, update)
