"""The p-value of a power law: uniform where it is one, small where it isn't."""

import math

import pytest
import torch
from analysis.samples import lognormal, pareto

from htmuon.analysis import fit_power_law
from htmuon.analysis.bootstrap import goodness_of_fit


def test_true_power_laws_are_seldom_ruled_out() -> None:
    p_values = []
    for seed in range(40):
        values = pareto(200, 2.5, seed=seed)
        p_values.append(goodness_of_fit(values, fit_power_law(values), samples=40).p_value)
    # p < 0.1 in one of ten: 4 of 40, with a standard deviation of 2.
    assert sum(p < 0.1 for p in p_values) <= 10
    assert sum(p > 0.5 for p in p_values) >= 10


def test_another_law_is_ruled_out() -> None:
    values = lognormal(1000, 0.0, 0.7)
    fit = fit_power_law(values, estimator="hill")  # the upper half of a lognormal is far from a power law
    result = goodness_of_fit(values, fit, samples=100)
    assert result.p_value < 0.05
    assert result.estimator == "hill"


def test_its_standard_error_is_that_of_a_given_xmin_for_hill() -> None:
    """The median estimator chooses nothing, so the bootstrap and the formula have to agree: to 1 / sqrt(2 samples)."""
    values = pareto(400, 2.5)
    fit = fit_power_law(values, estimator="hill")
    result = goodness_of_fit(values, fit, samples=400)
    assert result.samples == 400
    assert result.standard_error == pytest.approx(fit.standard_error, rel=0.15)


def test_random_numbers_are_its_own() -> None:
    values = pareto(100, 2.0)
    fit = fit_power_law(values)
    before = torch.get_rng_state()
    first = goodness_of_fit(values, fit, samples=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert goodness_of_fit(values, fit, samples=20) == first
    other = goodness_of_fit(values, fit, samples=20, generator=torch.Generator().manual_seed(7))
    assert other.standard_error != first.standard_error


def test_blocks_hold_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("htmuon.analysis.bootstrap._BLOCK_ELEMENTS", 250)
    values = pareto(100, 2.0)
    assert goodness_of_fit(values, fit_power_law(values, estimator="hill"), samples=7).samples == 7


def test_no_fit_no_number() -> None:
    values = torch.ones(50)
    result = goodness_of_fit(values, fit_power_law(values))
    assert math.isnan(result.p_value)
    assert math.isnan(result.standard_error)
    assert result.samples == 0


def test_rejects_a_stack_and_no_samples() -> None:
    values = pareto(50, 2.0)
    with pytest.raises(ValueError, match="one-dimensional; got shape"):
        goodness_of_fit(values[None], fit_power_law(values))
    with pytest.raises(ValueError, match="samples must be positive; got 0"):
        goodness_of_fit(values, fit_power_law(values), samples=0)
