"""The transformation of optax takes the steps of `htmuon.HTMuon`, under `jit`, in chains and partitions."""

import pytest
import torch
from matrices import relative_error

import htmuon
from htmuon.linalg import Quintic

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp
import numpy as np

from htmuon.jax import SpectralPowerState, scale_by_spectral_power

# As Flax stores them: [in, out], [experts, in, out].
SHAPES = {"square": (20, 20), "tall": (36, 12), "wide": (12, 40), "experts": (3, 10, 24), "stack": (2, 3, 24, 10)}
LAST = (-2, -1)


def arrays(tensors):
    return {name: jnp.asarray(tensor.numpy()) for name, tensor in tensors.items()}


def chained(*first, decay=0.1, rate=0.02):
    return optax.chain(*first, optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))


def steps_of_optax(optimizer, weights, gradients):
    weights = arrays(weights)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, gradients):
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    for of_step in gradients:
        weights, state = step(weights, state, arrays(of_step))
    return {name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()}, state


def steps_of_torch(weights, gradients, **settings):
    parameters = {name: torch.nn.Parameter(weight.mT.clone()) for name, weight in weights.items()}
    # Four dims would be taken for a convolution.
    groups = [{"params": [p], "matrix_view": "linear"} for p in parameters.values()]
    optimizer = htmuon.HTMuon(groups, lr=0.02, method=Quintic(precision="float32"), **settings)
    for of_step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = of_step[name].mT.clone()
        optimizer.step()
    return {name: parameter.detach().mT for name, parameter in parameters.items()}


def problem(shapes=SHAPES, steps=3):
    # Small weights, so that the rounding of the weights hides no difference of the updates.
    weights = {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    return weights, [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(steps)]


def differences(ours, theirs, start):
    return [relative_error(ours[name] - start[name], (theirs[name] - start[name]).double()) for name in start]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"power": 0.0, "momentum": 0.9, "nesterov": False},
        {"power": -0.25},
        {"power": 0.5, "normalization": "rms", "adjust_lr_fn": "match_rms_adamw"},
        {"adjust_lr_fn": None},
    ],
    ids=str,
)
def test_three_steps_are_those_of_torch(settings):
    weights, gradients = problem(SHAPES if not settings else {name: SHAPES[name] for name in ("tall", "wide")})
    ours, state = steps_of_optax(chained(scale_by_spectral_power(axes=LAST, **settings)), weights, gradients)
    # The whole movement to 1e-5: products of float32 in another order, lifted by the steps.
    assert max(differences(ours, steps_of_torch(weights, gradients, **settings), weights)) < 1e-5
    assert state[0].count == 3


def test_a_schedule_of_optax_is_followed_as_that_of_torch():
    weights, gradients = problem({"square": (20, 20), "wide": (12, 40)}, steps=5)
    schedule = optax.linear_schedule(0.5, -0.25, 4)
    ours, _ = steps_of_optax(chained(scale_by_spectral_power(schedule, normalization="rms")), weights, gradients)
    theirs = steps_of_torch(
        weights,
        gradients,
        power_schedule=htmuon.power_schedule("linear", start=0.5, end=-0.25, total_steps=4),
        normalization="rms",
    )
    # Coefficients are interpolated in float32.
    assert max(differences(ours, theirs, weights)) < 3e-5


def test_only_the_scale_tells_inputs_from_outputs():
    gradient = {"kernel": jnp.asarray(torch.randn(8, 32).numpy())}
    by_axes = {}
    for axes in ((-2, -1), (-1, -2)):
        optimizer = scale_by_spectral_power(axes=axes)
        by_axes[axes] = optimizer.update(gradient, optimizer.init(gradient))[0]["kernel"]
    # One is computed as it lies, the other transposed: sums run in another order.
    assert jnp.allclose(by_axes[-2, -1], 2 * by_axes[-1, -2], rtol=1e-4, atol=1e-5)
    default = scale_by_spectral_power()
    assert (default.update(gradient, default.init(gradient))[0]["kernel"] == by_axes[-2, -1]).all()


def test_a_kernel_of_a_convolution_is_one_matrix():
    kernel = torch.randn(3, 3, 4, 16)
    optimizer = scale_by_spectral_power(axes=lambda path, leaf: ((0, 1, 2), 3) if path.startswith("conv") else None)
    gradients = arrays({"conv/kernel": kernel, "dense": torch.randn(4, 4)})
    updates, _ = optimizer.update(gradients, optimizer.init(gradients))
    flat = scale_by_spectral_power()
    matrix = {"kernel": gradients["conv/kernel"].reshape(36, 16)}
    expected = flat.update(matrix, flat.init(matrix))[0]["kernel"].reshape(3, 3, 4, 16)
    assert jnp.allclose(updates["conv/kernel"], expected, rtol=1e-5, atol=1e-6)


def test_inputs_may_be_apart():
    leaf = jnp.asarray(torch.randn(4, 5, 6).numpy())
    apart, together = scale_by_spectral_power(axes=((0, 2), 1)), scale_by_spectral_power()
    matrix = leaf.transpose(0, 2, 1).reshape(24, 5)
    expected = together.update(matrix, together.init(matrix))[0].reshape(4, 6, 5).transpose(0, 2, 1)
    assert jnp.allclose(apart.update(leaf, apart.init(leaf))[0], expected, rtol=1e-5, atol=1e-6)


def test_an_expert_without_a_gradient_rests():
    weights, gradients = problem({"experts": (3, 10, 24)}, steps=3)
    for of_step in gradients[1:]:
        of_step["experts"][1] = 0
    ours, state = steps_of_optax(chained(scale_by_spectral_power(), decay=0.0), weights, gradients)
    theirs = steps_of_torch(weights, gradients, weight_decay=0.0)
    assert differences(ours, theirs, weights)[0] < 1e-5
    # Its momentum is that of the first step.
    kept = torch.from_numpy(np.array(state[0].momentum["experts"][1]))
    assert relative_error(kept, 0.05 * gradients[0]["experts"][1].double()) < 1e-6


def test_a_partition_gives_the_others_to_adam():
    params = {"dense": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}, "scale": jnp.ones(3)}
    labels = jax.tree_util.tree_map(lambda leaf: "matrix" if leaf.ndim >= 2 else "other", params)
    for optimizer in (
        optax.multi_transform({"matrix": chained(scale_by_spectral_power()), "other": optax.adam(1e-3)}, labels),
        optax.masked(scale_by_spectral_power(), jax.tree_util.tree_map(lambda leaf: leaf.ndim >= 2, params)),
    ):
        updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
        assert jax.tree_util.tree_map(jnp.shape, updates) == jax.tree_util.tree_map(jnp.shape, params)


def test_settings_may_be_injected():
    optimizer = optax.inject_hyperparams(scale_by_spectral_power, static_args="steps")(
        power=optax.linear_schedule(0.5, 0.0, 2), momentum=0.9
    )
    gradient = jnp.asarray(torch.randn(6, 8).numpy())
    state = optimizer.init(gradient)
    plain = scale_by_spectral_power(0.5, momentum=0.9)
    updates, state = jax.jit(optimizer.update)(gradient, state)
    assert jnp.allclose(updates, plain.update(gradient, plain.init(gradient))[0], rtol=1e-4, atol=1e-5)
    _, state = optimizer.update(gradient, state)
    assert float(state.hyperparams["power"]) == 0.25
    with pytest.raises(TypeError, match="static_args='steps'"):
        optax.inject_hyperparams(scale_by_spectral_power)().init(gradient)


def test_dtypes_stay():
    gradient = {"kernel": jnp.asarray(torch.randn(6, 8).numpy()).astype(jnp.bfloat16)}
    optimizer = scale_by_spectral_power()
    updates, state = optimizer.update(gradient, optimizer.init(gradient))
    assert isinstance(state, SpectralPowerState)
    assert updates["kernel"].dtype == state.momentum["kernel"].dtype == jnp.bfloat16


def test_a_gradient_that_is_not_finite_is_left_out_by_optax():
    optimizer = optax.apply_if_finite(scale_by_spectral_power(), max_consecutive_errors=2)
    gradient = jnp.ones((3, 4))
    updates, state = optimizer.update(gradient.at[0, 0].set(jnp.inf), optimizer.init(gradient))
    assert (updates == 0).all()
    assert (state.inner_state.momentum == 0).all()


@pytest.mark.parametrize(
    ("leaf", "axes", "error", "words"),
    [
        (jnp.ones(3), None, ValueError, r"got shape \(3,\) at 'dense/0'. .*optax.multi_transform.*optax.masked"),
        (jnp.ones((3, 3, 2, 2)), None, ValueError, r"more than three dims .* at 'dense/0'. Pass axes=\(\(0, 1, 2\), 3"),
        (jnp.ones((2, 2)), (0, 0), ValueError, r"got \(0, 0\) for 2 dims at 'dense/0'. Pass \(-2, -1\)"),
        (jnp.ones((2, 2)), (0, 2), ValueError, "share none"),
        (jnp.ones((2, 2)), ((), 1), ValueError, "share none"),
        (jnp.ones((2, 2)), 1, ValueError, "share none"),
        (jnp.ones((2, 2), jnp.int32), None, TypeError, "leaf 'dense/0' must be real floating point; got dtype int32"),
    ],
)
def test_a_leaf_that_is_no_matrix_is_refused(leaf, axes, error, words):
    optimizer = scale_by_spectral_power(axes=axes)
    with pytest.raises(error, match=words):
        optimizer.init({"dense": [leaf]})


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"power": 2}, ValueError, "power must lie in"),
        ({"power": "0.5"}, TypeError, "power must be a number"),
        ({"momentum": 1.0}, ValueError, "momentum must be .* less than 1; got 1.0"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False"),
        ({"normalization": "lmo"}, ValueError, "normalization must be one of auto, none, rms; got 'lmo'"),
        ({"adjust_lr_fn": "match_rms_adamw"}, ValueError, "needs normalization='rms'; got 'auto'"),
        ({"adjust_lr_fn": "rms"}, ValueError, "adjust_lr_fn must be one of original"),
        ({"eps": -1.0}, ValueError, "eps must be"),
        ({"steps": 9}, ValueError, "steps must be one of"),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        scale_by_spectral_power(**settings)
