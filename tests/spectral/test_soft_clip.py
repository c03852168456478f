"""Clips and Soren-lambda: the published formulas, and their exponents."""

import math

import pytest
import torch
from matrices import mapped_by_svd, matrix_with, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import Polynomial
from htmuon.spectral import MAPS, Clip, Knee, Soren

TAU = 0.05
# As published, on s = sigma / sigma_1, at unit height: c is tau, and t is 1 / tau in Softsign, tau in MuCon.
PUBLISHED = {
    "soft_clip": [lambda s: s / (1 + s**2 / TAU**2).sqrt() / TAU, lambda s: s / (s**2 + (1 / TAU) ** -2).sqrt()],
    "hard_clip": [lambda s: s.clamp(max=TAU) / TAU],
    "soren": [lambda s: (s / s.norm() + ((s / s.norm()) ** 2 + 0.4).sqrt()) / (1 + math.sqrt(1.4))],
}
EXPONENT = {"soft_clip": 1.0, "hard_clip": 1.0, "soren": 0.0}
CASES = [(name, formula) for name, formulas in PUBLISHED.items() for formula in formulas]


@pytest.mark.parametrize(("name", "formula"), CASES)
@pytest.mark.parametrize("spectrum", ["condition 1e2", "condition 1e4", "one over i", "one large"])
@pytest.mark.parametrize("shape", [(20, 13), (13, 20)], ids=str)
@pytest.mark.parametrize("method", ["svd", "eigh", "polynomial"])
def test_they_are_the_published_functions(method, shape, spectrum, name, formula):
    function = MAPS[name](EXPONENT[name])
    matrix = 3 * zoo_matrix(spectrum, shape).to(torch.float32)
    chosen = htmuon.linalg.Polynomial(levels=8) if method == "polynomial" else method
    result = htmuon.spectral_map(matrix, function, method=chosen)
    expected = mapped_by_svd(matrix, lambda sigma: formula(sigma / sigma.max()))
    # A relative error of weights is one of the Frobenius norm at most. Half a percent: sigma_1 by power iteration, and
    # the rounding of the products; 1e-4 is the promise of eigh.
    fitted = 1.25 * Polynomial(8).fit_error(function) + 5e-3
    assert relative_error(result, expected) < (fitted if method == "polynomial" else 1e-4)


@pytest.mark.parametrize("lam", [0.01, 0.2, 0.8, 100.0])
@pytest.mark.parametrize("decay", [0, 1, 3])
def test_soren_is_relative_to_the_frobenius_norm_with_products_alone(decay, lam):
    matrix = 7 * matrix_with(torch.arange(1, 41) ** -float(decay), (40, 50)).to(torch.float32)
    root = 1 + math.sqrt(1 + lam)
    expected = mapped_by_svd(matrix, lambda s: (s / s.norm() + ((s / s.norm()) ** 2 + lam).sqrt()) / root)
    result = htmuon.spectral_map(matrix, Soren(lam), method="polynomial")
    # The singular values of 1 / i^3 end at 2e-5, below the range, where weights go to zero: those are left out.
    u, sigma, vh = torch.linalg.svd(matrix.to(torch.float64), full_matrices=False)
    inside = sigma > 0.002 * sigma[0]
    got, wanted = ((u.mT @ part.to(torch.float64) @ vh.mT).diagonal()[inside] for part in (result, expected))
    # 1 %: the fit has 0.2 %, sigma_1 by power iteration some of the rest.
    torch.testing.assert_close(got, wanted, rtol=0.01, atol=0)


@pytest.mark.parametrize("method", ["eigh", "polynomial"])
def test_a_clip_is_relative_to_the_largest_singular_value_where_many_are_close(method):
    # Where all 60 are close the bound of products alone is far above: a clip relative to that would be 2/3 of this one.
    matrix = matrix_with(torch.linspace(1.0, 0.97, 60), (60, 80)).to(torch.float32)
    expected = mapped_by_svd(matrix, lambda s: (1 + (0.9 * s.max() / s) ** 2) ** -0.5)
    result = htmuon.spectral_map(matrix, Clip(0.9), method=method)
    # Two percent of sigma_1, and a slope of 0.45 there; the fit has 0.3 %.
    assert relative_error(result, expected) < 0.013


def test_clips_are_knees_of_exponent_one():
    x = torch.logspace(0, -4, 50)
    for sharpness in (2.0, math.inf):
        torch.testing.assert_close(Clip(0.1, sharpness)(x), Knee(1.0, 0.1, sharpness)(x))


def test_a_hard_corner_is_seen_in_the_error_of_the_fit():
    assert Polynomial().fit_error(MAPS["soft_clip"](1.0)) < 0.01
    assert 0.03 < Polynomial().fit_error(MAPS["hard_clip"](1.0)) < 0.05


@pytest.mark.parametrize(("name", "exponent"), EXPONENT.items())
def test_no_other_power_is_taken_for_theirs(name, exponent):
    for power in (0.125, 1 - exponent):
        with pytest.raises(ValueError, match=f"{name}.*needs power={exponent:g}; got {power}.*knee"):
            MAPS[name](power)
    with pytest.raises(ValueError, match="has no free exponent"):
        htmuon.HTMuon([torch.nn.Parameter(torch.eye(3))], spectral_map=name)
    htmuon.HTMuon([torch.nn.Parameter(torch.eye(3))], spectral_map=name, power=exponent)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clip(0.0), "tau must be"),
        (lambda: Clip("marchenko_pastur"), r"Knee\(1\.0"),
        (lambda: Clip(0.1, 0.0), "sharpness"),
        (lambda: Soren(0.0), r"lam must be in \[0\.01, 100\]"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
