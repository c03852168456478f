"""The knee: its formula, its edges, and what the methods make of it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SHAPES, SPECTRA, mapped_by_svd, matrix_with, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import METHODS, Polynomial
from htmuon.linalg.fit import fit
from htmuon.linalg.levels import LEVELS
from htmuon.spectral import MAPS, Knee, Power, Quantile
from htmuon.spectral.edge import LOWEST_EDGE, noise_edge

EXACT = ["svd", "eigh"]
EDGES = [0.3, 0.02, "marchenko_pastur", Quantile(0.5)]


def by_definition(sigma, power, tau, shape, sharpness=4.0):
    """The knee of one spectrum, largest first, with each edge from its definition and the corner as it is written."""
    x = sigma / sigma[..., :1]
    if isinstance(tau, Quantile):
        tau = torch.quantile(x, tau.share, dim=-1, keepdim=True)
    elif isinstance(tau, str):
        rows, columns = shape[-2:]
        rest = x[..., 1:].square().sum(-1, keepdim=True)
        tau = ((rest / (rows * columns)).sqrt() * (rows**0.5 + columns**0.5)).clamp(LOWEST_EDGE, 1.0)
    return (1 + (tau / x) ** sharpness) ** (-power / sharpness)


@pytest.mark.parametrize("shape", [(13, 4), (9, 33), (3, 12, 7), (1, 7), (6, 1)], ids=str)
@pytest.mark.parametrize("spectrum", ["condition 1e2", "condition 1e4", "one over i", "two clusters", "one large"])
@pytest.mark.parametrize("tau", EDGES, ids=str)
@pytest.mark.parametrize("method", EXACT)
def test_decompositions_compute_the_formula(method, tau, spectrum, shape):
    matrix = 5 * zoo_matrix(spectrum, shape)
    expected = mapped_by_svd(matrix, lambda sigma: by_definition(sigma, 0.5, tau, shape))
    # eigh is good to 1e-4 on condition 1e6, and better below.
    assert relative_error(htmuon.spectral_map(matrix, Knee(0.5, tau), method=method), expected) < 1e-4


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    power=st.floats(0, 1),
    tau=st.one_of(st.floats(1e-4, 1), st.just("marchenko_pastur"), st.builds(Quantile, st.floats(0, 1))),
    decay=st.floats(0, 3),
    sharpness=st.floats(1, 32),
    seed=st.integers(0, 10**6),
)
def test_weights_rise_from_a_power_to_one(rows, columns, power, tau, decay, sharpness, seed):
    sigma = torch.arange(1, min(rows, columns) + 1, dtype=torch.float64) ** -decay
    matrix = matrix_with(sigma, (rows, columns), seed)
    function = Knee(power, tau, sharpness).at((rows, columns))
    weights = function(sigma)
    # 1e-9: float64 rounding of logarithms.
    assert (weights <= 1 + 1e-9).all()
    assert (weights.diff() <= 1e-9).all()
    assert (
        weights >= sigma**power * 2 ** (-power / sharpness) - 1e-9
    ).all()  # the power map, and the corner's rounding
    expected = mapped_by_svd(matrix, lambda values: by_definition(values, power, tau, (rows, columns), sharpness))
    # 1e-6: singular values of 1e-4 carry rounding of 1e-12, and (tau / x)^32 thirty-two times the relative one.
    assert relative_error(htmuon.spectral_map(matrix, function), expected) < 1e-6


@pytest.mark.parametrize("tau", EDGES, ids=str)
def test_at_power_zero_it_is_the_polar_factor(tau):
    matrix = zoo_matrix("one over i", (7, 9))
    expected = mapped_by_svd(matrix, torch.ones_like)
    assert relative_error(htmuon.spectral_map(matrix, Knee(0.0, tau)), expected) < 1e-9


def test_at_tau_one_without_rounding_it_is_the_power_map():
    x = torch.logspace(0, -4, 50, dtype=torch.float64)
    torch.testing.assert_close(Knee(0.3, 1.0, math.inf)(x), Power(0.3)(x), rtol=1e-12, atol=0)
    # With a rounded corner, exactly 2^(-p/s) at the top, and the power below.
    ratio = Knee(0.3, 1.0)(x) / Power(0.3)(x)
    torch.testing.assert_close(ratio, (1 + x**4) ** (-0.3 / 4), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tau", EDGES[:3], ids=str)
@pytest.mark.parametrize("method", [*EXACT, "streaming", "polynomial"])
def test_the_scale_of_the_matrix_does_not_matter(method, tau):
    matrix = zoo_matrix("one over i", (9, 14)).to(torch.float32)
    plain = htmuon.spectral_map(matrix, Knee(0.5, tau), method=method)
    # 1e-4: the scales are no powers of two, so the input is rounded once more.
    for scale in (1e-30, 1e-3, 1e30):
        scaled = htmuon.spectral_map(matrix * scale, Knee(0.5, tau), method=method)
        assert relative_error(scaled, plain.to(torch.float64)) < 1e-4


def polynomial_errors(function, spectrum, shape, levels):
    """Relative errors of the weights of all directions within the range, beside the rounding of the result."""
    matrix = matrix_with(spectrum, shape).to(torch.float32)
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    method = Polynomial(levels=levels)
    bound = function.at(shape)
    mapped = method(matrix, bound)
    got = (u.mT @ mapped.matrix.to(torch.float64) @ vh.mT).diagonal(dim1=-2, dim2=-1)
    # Relative to the method's own sigma_1, which the tests of the methods hold to 5 %.
    weights = bound(sigma / mapped.sigma_1.to(torch.float64).squeeze(-1))
    inside = sigma / sigma[..., :1] >= method.accuracy(matrix, 0.0).smallest
    rounding = 10 * torch.finfo(torch.float32).eps * weights.amax(-1, keepdim=True)
    error = ((got - weights).abs() - rounding).clamp(min=0) / weights
    return error[inside].max()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if math.prod(shape) > 1], ids=str)
@pytest.mark.parametrize("spectrum", [name for name in SPECTRA if name != "half rank"])
@pytest.mark.parametrize("tau", [0.02, "marchenko_pastur"])
@pytest.mark.parametrize("power", [0.125, 1.0])
def test_products_alone_fit_it(power, tau, spectrum, shape):
    function = Knee(power, tau)
    values = SPECTRA[spectrum](min(shape[-2:]))
    error = polynomial_errors(function, values, shape, levels=6)
    # The edge goes as the root of the stable rank less one, which float32 knows to a few units of its rounding.
    noise = ((values / values[0]).square().sum() - 1).clamp(min=LOWEST_EDGE**2)
    edge = power * 8 * torch.finfo(torch.float32).eps / noise if tau == "marchenko_pastur" else 0.0
    # As Polynomial.accuracy: a quarter for what lies between the points of the grid, and the rounding of the products.
    assert error <= 1.25 * Polynomial(6).fit_error(function) + 1e-3 + edge


@pytest.mark.slow
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("power", [0.0, 0.125, 0.5, 1.0])
def test_between_the_points_of_the_grid_the_family_of_one_exponent_fits(power, levels):
    check_family(Knee(power).family, LEVELS[levels], ())


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.0, 0.03, 0.1, 0.125, 0.27, 0.6, 0.96, 1.0])
def test_between_the_points_of_the_grid_the_family_of_all_exponents_fits(power):
    family = Knee(torch.tensor(power)).family
    assert family is Knee(0.1).family
    assert family is not Knee(0.125).family
    check_family(family, LEVELS[6], (torch.tensor(power, dtype=torch.float64),))


def check_family(family, levels, exponent):
    fitted, x = fit(levels, family), levels.grid(2)
    log_tau = torch.linspace(math.log(LOWEST_EDGE), 0, 331, dtype=torch.float64)
    parameters = (*(value.expand_as(log_tau) for value in exponent), log_tau)
    got = fitted.weights(fitted.table, *parameters).to(torch.float64) @ levels.features(x).mT
    expected = family.function(x, *(value[:, None] for value in parameters))
    # A quarter above the error on the grid, and the float32 of the weights, which cancel to below 1e-3.
    assert (got / expected - 1).abs().max() <= 1.25 * fitted.error + 1e-3


def test_products_find_an_edge_for_every_matrix():
    spectra = torch.stack([torch.logspace(0, -decay, 40) for decay in (0, 1, 2, 3)])
    stack = torch.stack([matrix_with(spectrum, (40, 60), seed) for seed, spectrum in enumerate(spectra)])
    stack = stack.to(torch.float32)
    together = htmuon.spectral_map(stack, Knee(0.5), method="polynomial")
    for one, matrix in zip(together, stack, strict=True):
        # 1e-4: float32 products of a stack may sum in another order.
        alone = htmuon.spectral_map(matrix, Knee(0.5), method="polynomial")
        assert relative_error(one, alone.to(torch.float64)) < 1e-4
        # 2.5 %: the fit, and sigma_1 by power iteration, low by up to 5 % where many values are close, to the power p.
        exact = htmuon.spectral_map(matrix, Knee(0.5), method="svd")
        assert relative_error(one, exact.to(torch.float64)) < 0.025


@pytest.mark.parametrize("method", [*EXACT, "polynomial"])
@pytest.mark.parametrize("tau", [0.1, "marchenko_pastur"])
def test_orientation_zeros_and_rank(method, tau):
    function = Knee(0.5, tau)
    matrix = zoo_matrix("half rank", (12, 30))
    mapped = htmuon.spectral_map(torch.stack([matrix, torch.zeros_like(matrix)]), function, method=method)
    assert (mapped[1] == 0).all()
    turned = htmuon.spectral_map(matrix.mT, function, method=method).mT
    torch.testing.assert_close(turned, mapped[0], rtol=0, atol=1e-5)
    expected = mapped_by_svd(
        zoo_matrix("half rank", (12, 30)), lambda s: by_definition(s[:6], 0.5, tau, (12, 30)).repeat(2)
    )
    # 2.5 %: as above.
    assert relative_error(mapped[0], expected) < (0.025 if method == "polynomial" else 1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (50, 200)], ids=str)
@pytest.mark.parametrize("spike", [3.0, 30.0])
def test_the_edge_is_that_of_the_noise_beside_one_spike(spike, shape):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    top = torch.linalg.svdvals(noise)[0]
    sigma = torch.linalg.svdvals(noise + matrix_with(spike * top * torch.eye(1, min(shape))[0], shape))
    edge = noise_edge((sigma / sigma[0]).square().sum(), shape) * sigma[0]
    # The largest singular value of noise fluctuates about the edge by a share of n^(-2/3), which is 6 % here.
    assert edge / top == pytest.approx(1.0, abs=0.1)


def test_a_matrix_of_rank_one_has_no_noise():
    assert noise_edge(torch.tensor(1.0), (5, 8)).item() == 0
    matrix = matrix_with(torch.tensor([2.0, 0, 0]), (3, 6))
    assert relative_error(htmuon.spectral_map(matrix, Knee(1.0)), matrix / 2) < 1e-9


def test_binding_twice_is_binding_once():
    once = Knee(0.5).at((3, 4, 6))
    assert once.shape == (4, 6)
    assert once.at((9, 4, 6)) is once
    assert once.at((5, 5)).shape == (5, 5)


@pytest.mark.parametrize("power", [0.125, 0.1, torch.tensor(0.1)])
def test_an_optimizer_takes_it_by_name(power):
    weight = torch.nn.Parameter(torch.zeros(6, 9))
    weight.grad = zoo_matrix("one over i", (6, 9)).to(torch.float32)
    settings = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "method": "exact"}
    optimizer = htmuon.HTMuon([weight], power=power, spectral_map="knee", **settings)
    optimizer.step()
    expected = htmuon.spectral_map(weight.grad, Knee(power)).to(torch.float64)
    cosine = -(weight.detach() * expected).sum() / (weight.detach().norm() * expected.norm())
    assert cosine > 1 - 1e-5


def test_quantiles_need_all_singular_values():
    function = Knee(0.5, Quantile(0.5))
    assert not METHODS["polynomial"].can(function)
    with pytest.raises(ValueError, match="method='eigh'"):
        htmuon.spectral_map(torch.eye(3), function, method="polynomial")


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Knee(-0.1), ValueError, r"in \[0, 1\]; got -0\.1"),
        (lambda: Knee("half"), TypeError, "must be a number"),
        (lambda: Knee(0.5, tau=0.0), ValueError, r"in \[0\.0001, 1\].*got 0\.0"),
        (lambda: Knee(0.5, tau=2), ValueError, "got 2"),
        (lambda: Knee(0.5, tau="median"), ValueError, "Quantile"),
        (lambda: Knee(0.5, sharpness=0.5), ValueError, "at least 1; got 0.5"),
        (lambda: Knee(0.5, sharpness=math.nan), ValueError, "at least 1; got nan"),
        (lambda: Quantile(1.5), ValueError, r"in \[0, 1\]; got 1\.5"),
        (lambda: Knee(0.5)(torch.ones(3)), ValueError, r"\.at\(matrix\.shape\)"),
        (lambda: MAPS["knee"](-0.5), ValueError, "spectral_map='power'"),
    ],
)
def test_bad_settings_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
