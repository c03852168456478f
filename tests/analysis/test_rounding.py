"""Spectra that only rounding spreads have no exponent, in whatever dtype they come; real ones keep theirs."""

import math

import pytest
import torch
from analysis.samples import minilm_matrices
from torch import Tensor

import htmuon
from htmuon.analysis import (
    ESTIMATORS,
    SpectralMonitor,
    analyze_matrices,
    eigenvalues,
    fit_power_law,
    fit_power_laws,
)
from htmuon.analysis.rounding import rounding_level

SHAPES = [(12, 12), (64, 64), (300, 300), (2000, 60), (40, 900), (3, 30, 20)]


def orthogonal(*shape: int) -> Tensor:
    """(Semi-)orthogonal matrices, exact to float64."""
    generator = torch.Generator().manual_seed(0)
    *batch, m, n = shape
    tall = torch.linalg.qr(torch.randn(*batch, max(m, n), min(m, n), generator=generator, dtype=torch.float64)).Q
    return tall if m >= n else tall.mT


def statuses(matrix: Tensor) -> set[str]:
    """What the function and the analysis say about a matrix, by both estimators."""
    analyzed = {fit.status for result in analyze_matrices({"w": matrix}) for fit in result.fits.values()}
    spectra = eigenvalues(matrix).reshape(-1, min(matrix.shape[-2:]))
    return analyzed | {fit.status for name in ESTIMATORS for fit in fit_power_laws(spectra, name)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 0.037, 3e-4])  # the last one is subnormal in float16
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_an_orthogonal_matrix_has_no_exponent(shape: tuple[int, ...], scale: float, dtype: torch.dtype) -> None:
    stored = (scale * orthogonal(*shape)).to(dtype)
    assert statuses(stored) == {"no_spread"}
    assert statuses(stored.float()) == {"no_spread"}  # the rounding is in the numbers, whatever holds them now
    assert statuses(stored.double()) == {"no_spread"}


@pytest.mark.parametrize("size", [16, 200, 700])
def test_an_orthogonal_matrix_that_was_computed_in_float32_has_no_exponent(size: int) -> None:
    left, _, right = torch.linalg.svd(torch.randn(size, size, generator=torch.Generator().manual_seed(1)))
    polar = left @ right
    assert statuses(polar) == statuses(polar.double()) == {"no_spread"}
    for estimator in ESTIMATORS:
        for matrix in (polar, torch.eye(size), torch.nn.init.orthogonal_(torch.empty(size, size))):
            fit = fit_power_law(torch.linalg.svdvals(matrix) ** 2, estimator=estimator)
            assert (fit.status, math.isnan(fit.alpha)) == ("no_spread", True)


def test_a_stack_of_orthogonal_and_other_matrices() -> None:
    heavy = orthogonal(64, 64) * torch.arange(1, 65) ** -0.6 @ orthogonal(64, 64)
    for dtype in (torch.float32, torch.bfloat16):
        stack = torch.stack([orthogonal(64, 64), heavy, torch.eye(64)]).to(dtype)
        found = [result.fits["hill"].status for result in analyze_matrices({"w": stack})]
        assert found == ["no_spread", "ok", "no_spread"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("equal", [20, 50, 100])
def test_a_tail_of_equal_values_is_never_chosen(dtype: torch.dtype, equal: int) -> None:
    """A spectrum that was clipped at one: without rounding the tail of ones is no candidate, and no more with it."""
    sigma = torch.cat([torch.ones(equal), torch.linspace(0.95, 0.02, 200 - equal)]).double()
    matrix = ((orthogonal(200, 200).float() * sigma.float()) @ orthogonal(200, 200).float().mT).to(dtype)
    expected = fit_power_law(sigma.square())
    assert expected.tail_size > equal
    for stored in (matrix, matrix.double()):
        # Where rounding moves the chosen xmin by one eigenvalue of about 150, alpha moves by a percent or two.
        assert fit_power_law(eigenvalues(stored)).alpha == pytest.approx(expected.alpha, rel=0.03)


@pytest.mark.parametrize("values", [[2.0, 1.0], [1.0, 3.0, 2.0], [5.0, *[1.0] * 9]])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_few_different_values_have_no_exponent(values: list[float], estimator: str) -> None:
    diagonal = torch.diag(torch.tensor(values).repeat(20))
    fit = fit_power_law(eigenvalues(diagonal), estimator=estimator)
    assert (fit.status, math.isnan(fit.alpha)) == ("no_spread", True)
    assert "only a few different ones" in fit.message


def test_rounding_makes_no_eigenvalues_of_a_matrix_that_was_converted() -> None:
    generator = torch.Generator().manual_seed(0)
    low_rank = torch.randn(96, 16, generator=generator) @ torch.randn(16, 400, generator=generator)
    for stored in (low_rank, low_rank.half(), low_rank.bfloat16()):
        assert int((eigenvalues(stored.double()) > 0).sum()) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_weights_keep_their_exponents(dtype: torch.dtype) -> None:
    for name, weight in list(minilm_matrices().items())[::6]:
        exact = fit_power_law(torch.linalg.svdvals(weight.to(dtype).double()) ** 2, estimator="hill")
        fit = fit_power_law(eigenvalues(weight.to(dtype)), estimator="hill")
        # Sums over at least 192 logarithms, each off by float32's rounding of sigma.
        assert fit.alpha == pytest.approx(exact.alpha, rel=1e-4), name


def test_the_level_is_that_of_rounding() -> None:
    for shape, dtype in (((200, 200), torch.bfloat16), ((50, 700), torch.float16)):
        exact = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        for scale in (1.0, 1e-6) if dtype == torch.float16 else (1.0,):
            error = (scale * exact).to(dtype).double() - scale * exact
            level = float(rounding_level(torch.linalg.matrix_norm(scale * exact), shape, dtype))
            # 1.5 by its definition; the 0.2 in it is right to a tenth.
            assert level / float(torch.linalg.matrix_norm(error, ord=2)) == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_orthogonal_update_has_no_exponent(dtype: torch.dtype) -> None:
    """All singular values of Muon's update are one, up to the rounding of the weights divided by lr."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 40), torch.nn.Linear(40, 40), torch.nn.Linear(40, 3)).to(dtype)
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.05, method="svd", weight_decay=0.1)
    monitor = SpectralMonitor(model, optimizer, every=1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    updates = [record for record in monitor.latest if record["kind"] == "updates"]
    assert [record["name"] for record in updates] == ["0.weight", "1.weight"]
    for record in updates:
        assert record["stable_rank"] == pytest.approx(40, rel=0.1)  # bfloat16 adds 2 % to the largest of 40
        assert record["status_ks"] == record["status_hill"] == "no_spread"
        assert math.isnan(record["alpha_ks"])
    weights = [record["status_hill"] for record in monitor.latest if record["kind"] == "weights"]
    assert weights == ["ok", "ok"]
