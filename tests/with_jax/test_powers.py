"""The power in JAX is that of `Quintic` in torch, by the same coefficients."""

import importlib

import pytest
import torch
from matrices import SHAPES, SPECTRA, matrix_with, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import Quintic
from htmuon.linalg.quintics import recipes

jax = pytest.importorskip("jax")
pytest.importorskip("optax")

import jax.numpy as jnp
import numpy as np

from htmuon.jax import spectral_power
from htmuon.jax.coefficients import recipe_of

POWERS = (-0.5, 0.0, 0.125, 0.3, 1.0)
DOUBLE = jax.enable_x64 if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental").enable_x64


def by_jax(matrix, power, **settings):
    return torch.from_numpy(np.array(spectral_power(jnp.asarray(matrix.numpy()), power, **settings)))


def by_torch(matrix, power, normalization="none", **settings):
    return htmuon.spectral_power(matrix, power, method=Quintic(**settings), normalization=normalization)


@pytest.mark.parametrize("shape", [(6, 1), (5, 5), (13, 4), (3, 9, 33)])
@pytest.mark.parametrize("spectrum", ["condition 1e2", "condition 1e6", "half rank"])
def test_it_is_that_of_torch_in_float64(shape, spectrum):
    matrix = zoo_matrix(spectrum, shape)
    with DOUBLE(True):
        for power in POWERS:
            for normalization in ("none", "rms", "auto"):
                expected = by_torch(matrix, power, normalization)
                # Rounding of float64, 1e-16, lifted a few thousand times by the steps.
                assert relative_error(by_jax(matrix, power, normalization=normalization), expected) < 1e-11


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_that_of_torch_in_float32(shape):
    for spectrum in SPECTRA:
        matrix = zoo_matrix(spectrum, shape).float()
        for power in (0.125, -0.5):
            result = by_jax(matrix, power, precision="float32")
            # Rounding of float32 is relative to sigma_1; at the end of the range a direction is lifted most.
            lifted = recipes(5).range_of(power)[0] ** (power - 1)
            assert relative_error(result, by_torch(matrix, power, precision="float32")) < max(1e-5, 5e-7 * lifted)


@pytest.mark.parametrize("shape", [(48, 48), (96, 40), (32, 128), (3, 24, 40)], ids=str)
@pytest.mark.parametrize("power", POWERS)
def test_it_is_within_1e_5_of_torch_for_ordinary_matrices(shape, power):
    matrix = torch.randn(shape)
    assert relative_error(by_jax(matrix, power), by_torch(matrix, power, precision="float32")) < 1e-5


@pytest.mark.parametrize("steps", [4, 6, 8])
def test_other_numbers_of_steps(steps):
    matrix = torch.randn(24, 80)
    expected = by_torch(matrix, 0.125, precision="float32", steps=steps)
    assert relative_error(by_jax(matrix, 0.125, steps=steps), expected) < 1e-5


def test_an_exponent_may_be_traced():
    compiled = jax.jit(spectral_power, static_argnames="normalization")
    matrix = torch.randn(16, 24)
    for power in (-1.0, -0.71, 0.0, 0.125, 0.99, 1.0):
        result = compiled(jnp.asarray(matrix.numpy()), jnp.asarray(power), normalization="auto")
        expected = by_torch(matrix, power, "auto", precision="float32")
        # The coefficients are interpolated in float32, and some of 5 cancel by a digit.
        assert relative_error(torch.from_numpy(np.array(result)), expected) < 3e-5
    assert compiled._cache_size() == 1


def test_coefficients_are_interpolated_as_for_torch():
    for power in np.linspace(-1, 1, 41):
        with DOUBLE(True):
            found = jax.tree_util.tree_leaves(recipe_of(5, jnp.asarray(power)))
        # Those of torch are rounded to float32 once.
        assert np.allclose(found, jax.tree_util.tree_leaves(recipe_of(5, float(power))), rtol=1e-6)


def test_bfloat16_is_as_exact_as_that_of_torch():
    matrix = matrix_with(torch.logspace(0, -1.5, 40), (40, 100)).float()
    expected = torch.linalg.svd(matrix.double(), full_matrices=False)
    exact = expected.U * expected.S**0.125 @ expected.Vh
    ours = relative_error(by_jax(matrix, 0.125, precision="bfloat16"), exact)
    # The error of the coefficients, 2.5 %, and two more for rounding.
    assert ours < 0.045
    assert ours < 1.2 * relative_error(by_torch(matrix, 0.125, precision="bfloat16"), exact)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_no_scale_is_too_small_or_large(scale):
    matrix = torch.randn(12, 20)
    # A factor that is no power of two rounds every entry of M, by 6e-8.
    assert relative_error(by_jax(matrix * scale, 0.5) / scale**0.5, by_jax(matrix, 0.5)) < 1e-5


def test_what_is_zero_or_not_finite_stays_with_its_matrix():
    stack = torch.randn(4, 6, 9)
    stack[1], stack[2, 3, 4], stack[3, 0, 0] = 0, torch.nan, torch.inf
    for normalization in ("none", "rms"):
        result = by_jax(stack, -0.25, normalization=normalization)
        # Compiled for another batch, sums run in another order.
        assert relative_error(result[0], by_jax(stack[:1], -0.25, normalization=normalization)[0]) < 1e-5
        assert result[1].equal(torch.zeros(6, 9))
        assert result[2:].isnan().all()
    assert by_jax(torch.zeros(0, 3), 0.5).shape == (0, 3)


def test_the_dtype_stays():
    matrix = jnp.ones((3, 4), jnp.bfloat16)
    assert spectral_power(matrix, 0.125).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "words"),
    [
        ((np.ones((2, 2)), 0.5), {}, TypeError, "must be a jax.Array .* got ndarray. Pass jax.numpy.asarray"),
        ((jnp.ones((2, 2), jnp.int32), 0.5), {}, TypeError, "real floating point; got dtype int32"),
        ((jnp.ones(2), 0.5), {}, ValueError, r"must have shape \[\*batch, m, n\]; got shape \(2,\)"),
        ((jnp.ones((2, 2)), 1.5), {}, ValueError, r"power must lie in \[-1.0, 1.0\]; got 1.5"),
        ((jnp.ones((2, 2)), jnp.ones(2)), {}, TypeError, r"0-d real array; got shape \(2,\)"),
        ((jnp.ones((2, 2)), 0.5), {"steps": 3}, ValueError, "steps must be one of 4, 5, 6, 7, 8; got 3"),
        ((jnp.ones((2, 2)), 0.5), {"precision": "float16"}, ValueError, "precision must be one of None, float32, bfl"),
        ((jnp.ones((2, 2)), 0.5), {"normalization": "rmse"}, ValueError, "got 'rmse'. Did you mean 'rms'"),
    ],
)
def test_what_is_refused(arguments, settings, error, words):
    with pytest.raises(error, match=words):
        spectral_power(*arguments, **settings)
