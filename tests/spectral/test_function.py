"""Functions of one's own: how well products fit them, and that they are fitted once."""

import pytest
import torch
from matrices import mapped_by_svd, relative_error, zoo_matrix

import htmuon
from htmuon.linalg import Polynomial, select_method
from htmuon.spectral import Function

GOOD = {
    "soft sign": lambda x: x / (x + 0.05),
    "log": lambda x: torch.log1p(100 * x),
    "tanh": lambda x: torch.tanh(20 * x),
    "negative": lambda x: -(x**0.5),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("shape", [(30, 20), (20, 50)], ids=str)
def test_products_compute_a_smooth_function_to_within_its_fit(name, shape):
    function = Function(GOOD[name])
    matrix = zoo_matrix("condition 1e2", shape).to(torch.float32)
    expected = mapped_by_svd(matrix, lambda sigma: GOOD[name](sigma / sigma.max()))
    error = Polynomial().fit_error(function)
    assert error < 0.013
    # Half a percent: sigma_1 by power iteration, and the rounding of the products.
    assert relative_error(htmuon.spectral_map(matrix, function, method="polynomial"), expected) < 1.25 * error + 5e-3


@pytest.mark.slow
def test_a_power_is_fitted_as_a_power():
    # Above sigma_1, where the bound of the method reaches, it continues as itself: no corner is made there.
    assert Polynomial().fit_error(Function(lambda x: x)) < 1e-5
    assert Polynomial().fit_error(Function(lambda x: x**0.5)) < 0.005


@pytest.mark.slow
def test_how_badly_a_step_is_fitted_is_said():
    # A jump from 1/2 to 1 cannot be missed by less than (1 - 1/2) / (1 + 1/2) on its two sides.
    assert 1 / 3 < Polynomial().fit_error(Function(lambda x: torch.where(x > 0.1, 1.0, 0.5))) < 0.5
    matrix = zoo_matrix("condition 1e2", (20, 30)).to(torch.float32)
    with pytest.warns(UserWarning, match=r"follow this function to .* with 6 levels.*method='eigh'"):
        htmuon.spectral_map(matrix, Function(lambda x: torch.where(x > 0.2, 1.0, 0.5)), method="polynomial")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x > 0.1, 1.0, 0.0),
        lambda x: x - 0.5,
        lambda x: x**4,
        lambda x: torch.where(x > 0.1, x, torch.nan),
        lambda x: 1 / (x - x),
    ],
)
def test_what_has_no_relative_error_is_left_to_decompositions(function):
    assert not Polynomial().can(Function(function))
    assert select_method(torch.ones(3, 4), Function(function)).name == "eigh"


def test_a_function_made_anew_is_fitted_once():
    def soft_sign(tau, scale=1.0):
        return Function(lambda x: scale * x / (x + tau))

    assert soft_sign(0.1).family is soft_sign(0.1).family
    assert soft_sign(0.1).family is not soft_sign(0.2).family
    assert soft_sign(0.1).family is not soft_sign(0.1, 2.0).family
    assert Function(torch.tanh).family is Function(torch.tanh).family


@pytest.mark.slow
def test_a_function_whose_values_have_changed_is_fitted_anew(monkeypatch):
    class Held:
        tau = 0.1

        def __call__(self, x):
            return x / (x + self.tau)

    tau, held = torch.tensor(0.1), Held()
    matrix = zoo_matrix("condition 1e2", (20, 30)).to(torch.float32)
    for value in (0.1, 0.01):
        tau.fill_(value)
        held.tau = value
        monkeypatch.setitem(globals(), "TAU", value)
        expected = mapped_by_svd(matrix, lambda sigma, value=value: 1 / (1 + value * sigma.max() / sigma))
        for function in (lambda x: x / (x + tau), held, lambda x: x / (x + TAU)):  # noqa: F821 - set above
            mapped = htmuon.spectral_map(matrix, Function(function), method="polynomial")
            assert relative_error(mapped, expected) < 0.015  # the fit, and sigma_1 by power iteration


def test_a_function_of_all_values_is_left_to_decompositions():
    for function in (lambda x: x / x.mean(-1, keepdim=True), lambda x: x[..., :1]):
        assert Function(function).family is None


def test_a_function_may_return_a_number():
    matrix = zoo_matrix("condition 1e2", (20, 30)).to(torch.float32)
    polar = mapped_by_svd(matrix, torch.ones_like)
    for method in ("eigh", "polynomial"):
        mapped = htmuon.spectral_map(matrix, Function(lambda x: 1.0), method=method)
        assert relative_error(mapped, polar) < 0.005


def test_a_function_that_holds_tensors_of_an_accelerator_is_left_to_decompositions():
    power = torch.full((), 0.125, device="meta")
    function = Function(lambda x: x**power + 0.01)
    assert function.family is None
    assert select_method(torch.ones(3, 4, device="meta"), function).name == "eigh"
