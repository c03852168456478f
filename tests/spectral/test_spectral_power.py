"""The public functions: normalizations, scale, dtype, NaN, batches, errors."""

import functools
import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SHAPES, SPECTRA, mapped_by_svd, relative_error, zoo_matrix

import htmuon
from htmuon.spectral import MAPS, Function, Power, RankPower

NORMALIZATIONS = ["none", "spectral", "rms", "lmo"]
# Published maps without a free exponent take the one they have; every other map takes any.
OWN_EXPONENT = {"soft_clip": 1.0, "hard_clip": 1.0, "soren": 0.0, "blend": 0.0}


def oracle(matrix, power, normalization):
    """Each normalization from its definition, on a float64 SVD."""
    sigma = torch.linalg.svdvals(matrix.to(torch.float64))
    kept = sigma > sigma[..., :1] * max(matrix.shape[-2:]) * torch.finfo(torch.float64).eps
    mapped = mapped_by_svd(matrix, lambda s: s**power)
    if normalization == "none":
        return mapped
    if normalization == "spectral":
        return mapped / sigma[..., :1, None] ** power
    if normalization == "rms":
        rank = kept.sum(-1)[..., None, None]
        return mapped * rank.sqrt() / torch.linalg.matrix_norm(mapped, keepdim=True)
    total = (torch.where(kept, sigma, 0.0) ** (1 + power)).sum(-1)[..., None, None]
    return mapped / total ** (power / (1 + power))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spectrum", [name for name in SPECTRA if name != "condition 1e8"])
@pytest.mark.parametrize(("power", "normalization"), [*product([0.0, 0.125, 1.0], NORMALIZATIONS), (-0.5, "rms")])
def test_every_normalization_is_its_definition(power, normalization, spectrum, shape):
    # float64, so that half-rank matrices have an exact rank; eigh is good to 1e-4 on condition 1e6, and better below.
    matrix = 3 * zoo_matrix(spectrum, shape)
    for method in ("svd", "eigh"):
        result = htmuon.spectral_power(matrix, power, method=method, normalization=normalization)
        assert relative_error(result, oracle(matrix, power, normalization)) < 1e-4


@pytest.mark.parametrize("exponent", [-30, -12, 0, 12, 30])
@pytest.mark.parametrize("method", ["svd", "eigh", "newton_schulz"])
@pytest.mark.parametrize("power", [0.0, 0.125, 1.0])
def test_scales_from_1e_minus_30_to_1e30(power, method, exponent):
    matrix = zoo_matrix("one over i", (9, 14)).to(torch.float32)
    scale = 10.0**exponent
    plain = htmuon.spectral_power(matrix, power, method=method)
    scaled = htmuon.spectral_power(matrix * scale, power, method=method)
    # Degree p under `none`; the scale is no power of two, so the input itself is rounded once (and once to bfloat16 in
    # the quintic recipe at p = 0).
    close = 0.05 if (method, power) == ("newton_schulz", 0.0) else 1e-4
    assert relative_error(scaled.to(torch.float64) / scale**power, plain.to(torch.float64)) < close
    for normalization in ("spectral", "rms", "lmo"):
        one = htmuon.spectral_power(matrix, power, method=method, normalization=normalization)
        other = htmuon.spectral_power(matrix * scale, power, method=method, normalization=normalization)
        assert relative_error(other, one.to(torch.float64)) < close


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    power=st.floats(0, 1),
    decay=st.floats(0, 3),
    seed=st.integers(0, 10**6),
)
def test_the_lmo_update_minimizes_over_the_schatten_ball(rows, columns, power, decay, seed):
    generator = torch.Generator().manual_seed(seed)
    u, sigma, vh = torch.linalg.svd(torch.randn(rows, columns, generator=generator, dtype=torch.float64), False)
    matrix = (u * sigma * torch.arange(1, len(sigma) + 1) ** -decay) @ vh
    update = htmuon.spectral_power(matrix, power, normalization="lmo")
    sigma, mapped = torch.linalg.svdvals(matrix), torch.linalg.svdvals(update)
    # By duality <M, O> <= norm_{q*}(M) norm_q(O) with q = 1 + 1/p, q* = 1 + p: a point of the ball that attains the
    # dual norm is a minimizer of -<M, O>. 1e-9: float64 rounding of sums and roots.
    ball = mapped.max() if power < 1e-3 else (mapped ** (1 + 1 / power)).sum() ** (1 / (1 + 1 / power))
    dual = (sigma ** (1 + power)).sum() ** (1 / (1 + power))
    assert ball <= 1 + 1e-9
    assert math.isclose((matrix * update).sum(), dual, rel_tol=1e-9)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_all_normalizations_are_the_polar_factor_at_zero(normalization):
    matrix = zoo_matrix("condition 1e4", (3, 20, 12)).to(torch.float32)
    expected = mapped_by_svd(matrix, torch.ones_like)
    mapped = htmuon.spectral_power(matrix, 0.0, method="eigh", normalization=normalization)
    assert relative_error(mapped, expected) < 1e-5


def test_power_one_is_the_matrix_itself():
    matrix = 1e-5 * zoo_matrix("condition 1e4", (20, 12)).to(torch.float32)
    torch.testing.assert_close(
        htmuon.spectral_power(matrix, 1.0), matrix, rtol=0, atol=1e-6 * matrix.abs().max().item()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["auto", "svd", "eigh", "newton_schulz"])
def test_shape_and_dtype_are_those_of_the_input_which_is_not_written(method, dtype):
    matrix = zoo_matrix("one over i", (2, 6, 4)).to(dtype)
    before = matrix.clone()
    result = htmuon.spectral_power(matrix, 0.125, method=method)
    assert (result.shape, result.dtype) == (matrix.shape, dtype)
    assert torch.equal(matrix, before)
    assert htmuon.spectral_power(torch.zeros(0, 4, dtype=dtype), 0.125, method=method).shape == (0, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["svd", "eigh", "newton_schulz"])
def test_a_matrix_that_is_not_finite_becomes_nan_and_leaves_its_batch_alone(method, bad):
    stack = zoo_matrix("one over i", (3, 6, 8)).to(torch.float32)
    expected = htmuon.spectral_power(stack, 0.125, method=method)
    stack[1, 2, 3] = bad
    result = htmuon.spectral_power(stack, 0.125, method=method)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_a_stack_is_computed_as_its_slices(method):
    stack = torch.stack([zoo_matrix(name, (6, 8)) for name in SPECTRA]).to(torch.float32)
    result = htmuon.spectral_power(stack, 0.25, method=method)
    for slice_, one in zip(result, stack, strict=True):
        torch.testing.assert_close(slice_, htmuon.spectral_power(one, 0.25, method=method), rtol=0, atol=1e-5)


def test_a_function_of_the_relative_singular_values():
    matrix = 40 * zoo_matrix("condition 1e4", (15, 9)).to(torch.float32)
    soft = lambda x: x / (x + 0.05)  # noqa: E731 - the map under test is a function
    expected = mapped_by_svd(matrix, lambda sigma: soft(sigma / sigma.max()))
    assert relative_error(htmuon.spectral_map(matrix, Function(soft), method="eigh"), expected) < 1e-5


@pytest.mark.parametrize("name", MAPS)
def test_every_map_is_scale_free_or_has_a_degree(name):
    function = MAPS[name](OWN_EXPONENT.get(name, 0.25))
    matrix = zoo_matrix("one over i", (7, 9))
    ratio = htmuon.spectral_map(16 * matrix, function) / htmuon.spectral_map(matrix, function)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 16.0**function.degree), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MAPS)
def test_every_map_agrees_with_its_weights_and_is_bound_to_a_shape_once(name):
    matrix = zoo_matrix("condition 1e2", (3, 8, 12))
    function = MAPS[name](OWN_EXPONENT.get(name, 0.25)).at((3, 8, 12))
    assert function.at((3, 8, 12)) == function
    expected = mapped_by_svd(matrix, lambda sigma: function(sigma / sigma[..., :1]))
    # 1e-5: eigh in float64 at condition 1e2.
    for method in ("svd", "eigh"):
        result = htmuon.spectral_map(matrix, function, method=method, normalization="spectral")
        assert relative_error(result, expected) < 1e-5


@pytest.mark.parametrize("name", [name for name in MAPS if name not in OWN_EXPONENT])
def test_every_power_at_zero_is_the_polar_factor(name):
    matrix = zoo_matrix("one over i", (7, 9))
    assert relative_error(htmuon.spectral_map(matrix, MAPS[name](0.0)), mapped_by_svd(matrix, torch.ones_like)) < 1e-9


def test_it_stands_in_for_a_newton_schulz_function():
    zeropower = functools.partial(htmuon.spectral_power, power=0.125)
    matrix = zoo_matrix("one over i", (7, 9))
    assert relative_error(zeropower(matrix), mapped_by_svd(matrix, lambda sigma: sigma**0.125)) < 1e-9


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: htmuon.spectral_power(m, 1.5), ValueError, r"in \[-1\.0, 1\.0\]; got 1\.5"),
        (lambda m: htmuon.spectral_power(m, math.nan), ValueError, "got nan"),
        (lambda m: htmuon.spectral_power(m, "half"), TypeError, "must be a number; got 'half'"),
        (lambda m: htmuon.spectral_power(m, True), TypeError, "must be a number; got True"),
        (lambda m: htmuon.spectral_power(m, torch.ones(2)), ValueError, r"shape of the batch, \(\).*got \(2,\)"),
        (lambda m: htmuon.spectral_power(m, 0.1, method="qr"), ValueError, "one of auto, .*got 'qr'"),
        (lambda m: htmuon.spectral_power(m, 0.1, method="newton_schulz"), ValueError, "method='eigh'"),
        (lambda m: htmuon.spectral_power(m, 0.1, normalization="rsm"), ValueError, "Did you mean 'rms'"),
        (lambda m: htmuon.spectral_power(m, -0.1, normalization="lmo"), ValueError, r"power in \[0, 1\]"),
        (lambda m: htmuon.spectral_map(m, RankPower(0.5), normalization="lmo"), ValueError, "not a power"),
        (lambda m: htmuon.spectral_map(m, Function(torch.tanh), method="newton_schulz"), ValueError, "not a power"),
        (lambda m: htmuon.spectral_power(m[0], 0.1), ValueError, r"shape \[\*batch, m, n\]; got shape \(4,\)"),
        (lambda m: htmuon.spectral_power(m.to(torch.complex64), 0.1), TypeError, "real floating point"),
        (lambda m: htmuon.spectral_power(m.to(torch.int32), 0.1), TypeError, "real floating point"),
        (lambda m: htmuon.spectral_power(m.to_sparse(), 0.1), TypeError, "must be dense"),
        (lambda m: htmuon.spectral_power(m.tolist(), 0.1), TypeError, "torch.Tensor"),
        (lambda m: Power(2.0), ValueError, "got 2.0"),
        (lambda m: RankPower(-1.5), ValueError, "got -1.5"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.ones(3, 4))


@pytest.mark.parametrize("normalization", [*NORMALIZATIONS, "auto"])
@pytest.mark.parametrize(
    "method",
    [
        "auto",
        "eigh",
        "polynomial",
        "streaming",
        *({"name": "quintic", "steps": steps, "precision": "float32"} for steps in (4, 7)),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (17, 17)], ids=str)
def test_each_matrix_of_a_batch_has_the_power_of_its_own(shape, method, normalization):
    torch.manual_seed(0)
    matrix = torch.randn(2, 3, *shape)
    # Powers are clamped to the range of the method and of the normalization.
    powers = torch.tensor([[0.0, 0.125, 1.0], [0.5, 0.03, 0.31]])
    if normalization != "lmo":
        powers[0, 1] = -0.2
    result = htmuon.spectral_power(matrix, powers, method=method, normalization=normalization)
    for i, j in product(range(2), range(3)):
        alone = htmuon.spectral_power(matrix[i, j], powers[i, j].item(), method=method, normalization=normalization)
        # Coefficients are interpolated in float32 for a tensor, in float64 for a number, and products stacked.
        assert relative_error(result[i, j], alone) < 1e-5


def test_one_power_for_each_of_the_last_batch_dim():
    torch.manual_seed(0)
    matrix, powers = torch.randn(2, 3, 8, 8), torch.tensor([0.0, 0.5, -0.5])
    result = htmuon.spectral_power(matrix, powers)
    for j, power in enumerate(powers.tolist()):
        # Another stack, whose products may be summed in another order.
        torch.testing.assert_close(result[:, j], htmuon.spectral_power(matrix[:, j], power), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("powers", "method", "message"),
    [
        (torch.zeros(4), "auto", r"power must have the shape of the batch, \(2, 3\).*got \(4,\). Give it as many"),
        (torch.full((2, 3), 1.5), "auto", r"power must lie in \[-1.0, 1.0\]"),
        (torch.full((2, 3), torch.nan), "auto", r"power must lie in \[-1.0, 1.0\]"),
        (torch.full((2, 3), -0.5), "polynomial", r"method 'polynomial' needs a power of at least -0.25"),
        (torch.zeros(2, 3), "newton_schulz", r"method 'newton_schulz' needs power 0 or 2\^-k"),
    ],
)
def test_powers_that_do_not_fit_say_so(powers, method, message):
    with pytest.raises(ValueError, match=message):
        htmuon.spectral_power(torch.randn(2, 3, 8, 8), powers, method=method)


def test_no_power_of_a_batch_may_be_below_zero_for_a_schatten_ball():
    powers = torch.tensor([0.5, -0.1])
    with pytest.raises(ValueError, match=r"normalization 'lmo' needs the power map with power in \[0, 1\]"):
        htmuon.spectral_power(torch.randn(2, 8, 8), powers, normalization="lmo")


def test_maps_of_one_exponent_refuse_several():
    with pytest.raises(TypeError, match=r"power must be a number or a 0-d floating-point tensor; got shape \(2,\)"):
        RankPower(torch.zeros(2))
    with pytest.raises(
        TypeError, match=r"power must be a number or a floating-point tensor; got shape \(2,\) and dtype"
    ):
        Power(torch.zeros(2, dtype=torch.int64))
