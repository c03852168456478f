"""The laws that a power law is compared with: planted parameters, limits, and what can't be compared."""

import math

import pytest
import torch
from analysis.samples import lognormal, pareto, truncated_pareto
from torch import Tensor

from htmuon.analysis import PowerLawFit, fit_power_law
from htmuon.analysis.alternatives import ALTERNATIVES, compare


def fit_from(values: Tensor, xmin: float) -> PowerLawFit:
    """The power-law fit of all values >= a known xmin, which has to be one of the values."""
    tail = values[values >= xmin]
    alpha = 1 + len(tail) / float((tail / xmin).log().sum())
    return PowerLawFit(estimator="ks", alpha=alpha, xmin=xmin, ks_distance=0.1, tail_size=len(tail))


def test_planted_parameters_are_found() -> None:
    # Ten thousand samples: a few percent of error in the parameters of these correlated laws.
    values = truncated_pareto(10_000, 1.5, 0.1)
    truncated = compare(values, fit_from(values, float(values.min())))["truncated_power_law"]
    assert truncated.parameters == pytest.approx({"alpha": 1.5, "lambda": 0.1}, rel=0.1)
    assert truncated.log_likelihood_ratio < 0
    assert truncated.p_value < 1e-6

    values = lognormal(10_000, 1.0, 0.8)
    threshold = float(values[values > 2.0].min())
    normal = compare(values, fit_from(values, threshold))["lognormal"]
    assert normal.parameters == pytest.approx({"mu": 1.0, "sigma": 0.8}, rel=0.1)
    assert normal.p_value < 1e-6

    uniform = torch.rand(10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = 3 - (1 - uniform).log() / 0.5
    exponential = compare(values, fit_from(values, float(values.min())))["exponential"]
    assert exponential.parameters == pytest.approx({"lambda": 0.5}, rel=0.05)
    assert exponential.log_likelihood_ratio < 0


def test_the_truncated_power_law_is_never_worse_than_the_power_law_it_contains() -> None:
    for seed in range(20):
        values = pareto(200, 1.5 + 0.2 * seed, seed=seed)
        result = compare(values, fit_power_law(values, estimator="hill"))["truncated_power_law"]
        assert result.log_likelihood_ratio <= 1e-6  # the quadrature is exact to 1e-9 for each of 100 eigenvalues
        assert 0 <= result.p_value <= 1


def test_a_tail_heavier_than_its_power_law_has_no_cut_off() -> None:
    # Exact quantiles of a pure law, and one value far beyond: a cut-off can only lower the likelihood.
    quantiles = (1 - torch.linspace(0.0, 0.999, 500, dtype=torch.float64)) ** (-1 / 3)
    values = torch.cat([quantiles, torch.tensor([500.0], dtype=torch.float64)])
    result = compare(values, fit_from(values, 1.0))["truncated_power_law"]
    assert (result.log_likelihood_ratio, result.p_value, result.parameters["lambda"]) == (0.0, 1.0, 0.0)


def test_a_lognormal_that_only_approaches_the_power_law_has_no_fit() -> None:
    statuses = set()
    for seed in range(10):
        values = pareto(400, 1.8, seed=seed)
        fit = fit_power_law(values, estimator="hill")
        t = (values[values >= fit.xmin] / fit.xmin).log()
        result = compare(values, fit)["lognormal"]
        # A normal distribution cut off at 0 has a coefficient of variation below that of the exponential one, 1.
        expected = "limit_is_power_law" if t.var(correction=0) >= t.mean() ** 2 else "ok"
        assert result.status == expected
        assert math.isnan(result.p_value) == (expected != "ok")
        statuses.add(result.status)
    assert statuses == {"ok", "limit_is_power_law"}


def test_ratios_do_not_depend_on_scale() -> None:
    values = lognormal(300, 0.0, 1.0)
    scaled = values * 1e-7
    for name in ALTERNATIVES:
        before, after = compare(values, fit_power_law(values))[name], compare(scaled, fit_power_law(scaled))[name]
        assert after.log_likelihood_ratio == pytest.approx(before.log_likelihood_ratio, abs=1e-6)
        assert after.p_value == pytest.approx(before.p_value, abs=1e-6)


@pytest.mark.parametrize("width", [1e-2, 1e-6, 1e-10])
def test_narrow_tails_are_compared_as_well(width: float) -> None:
    """Where x hardly moves, x^-alpha and exp(-lambda x) are one law, and none of the others is better by much."""
    uniform = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = 1 - width * (1 - uniform).log()
    for result in compare(values, fit_power_law(values, estimator="hill")).values():
        if result.status == "ok":
            assert abs(result.log_likelihood_ratio) < 5
            assert 0 <= result.p_value <= 1


def test_no_fit_is_a_status_for_every_alternative() -> None:
    values = torch.ones(50)
    results = compare(values, fit_power_law(values))
    assert set(results) == set(ALTERNATIVES)
    for result in results.values():
        assert result.status == "no_fit"
        assert math.isnan(result.log_likelihood_ratio)
        assert result.message


def test_rejects_what_was_not_fitted() -> None:
    values = pareto(100, 2.0)
    with pytest.raises(ValueError, match="one-dimensional; got shape"):
        compare(values[None], fit_power_law(values))
    with pytest.raises(ValueError, match="must be those of the fit, with"):
        compare(values[:50], fit_power_law(values, estimator="hill"))
