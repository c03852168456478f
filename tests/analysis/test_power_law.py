import math

import pytest
import torch
from analysis.samples import lognormal, pareto
from torch import Tensor

from htmuon.analysis import ESTIMATORS, fit_power_law, fit_power_laws
from htmuon.analysis.power_law import MIN_TAIL_SIZE


def slow_ks_fit(values: Tensor, min_tail_size: int = MIN_TAIL_SIZE) -> tuple[float, float, float]:
    """Clauset's search written as a loop over xmin: (distance, alpha, xmin)."""
    ordered = sorted(values.tolist())
    best = (math.inf, 0.0, 0.0)
    for start in range(len(ordered) - min_tail_size + 1):
        tail = ordered[start:]
        alpha = 1 + len(tail) / math.fsum(math.log(x / tail[0]) for x in tail)
        distance = max(abs(1 - (x / tail[0]) ** (1 - alpha) - i / len(tail)) for i, x in enumerate(tail))
        best = min(best, (distance, alpha, tail[0]))
    return best


@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_recovers_the_exponent_of_a_pure_power_law(alpha: float, seed: int) -> None:
    # The Hill fit has a fixed xmin, so its error is normal with the stated standard error: 4 of them is 1 in 16,000.
    # Choosing xmin adds variance that the standard error leaves out: 6 of them.
    samples = pareto(4000, alpha, seed=seed)
    hill = fit_power_law(samples, estimator="hill")
    assert abs(hill.alpha - alpha) < 4 * hill.standard_error
    ks = fit_power_law(samples, estimator="ks")
    assert abs(ks.alpha - alpha) < 6 * ks.standard_error


def test_finds_a_planted_xmin() -> None:
    body = torch.rand(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fit = fit_power_law(torch.cat([body, pareto(2000, 3.0, xmin=1.0)]))
    assert 0.9 < fit.xmin < 1.5  # a tail of a power law is a power law: xmin may come out somewhat larger, not smaller
    assert abs(fit.alpha - 3.0) < 6 * fit.standard_error


def test_equals_the_loop_over_all_candidates() -> None:
    values = torch.cat([pareto(60, 2.0), torch.rand(40, generator=torch.Generator().manual_seed(2)).double()])
    distance, alpha, xmin = slow_ks_fit(values)
    fit = fit_power_law(values)
    # The same sums in another order, in float64.
    assert (fit.ks_distance, fit.alpha, fit.xmin) == pytest.approx((distance, alpha, xmin), rel=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_stack_has_the_fits_of_its_rows(estimator: str) -> None:
    """Rows that fail, that have zeros and that have equal values disturb no other."""
    rows = [pareto(200, 2.2), lognormal(200, 0.0, 1.0), torch.zeros(200), torch.full((200,), math.nan)]
    rows += [torch.cat([pareto(150, 3.0), torch.zeros(50)]), torch.full((200,), 2.0), pareto(200, 2.0).round()]
    fits = fit_power_laws(torch.stack([row.double() for row in rows]), estimator)
    assert [str(fit) for fit in fits] == [str(fit_power_law(row, estimator=estimator)) for row in rows]
    assert [fit.status for fit in fits[2:6]] == ["too_few", "not_finite", "ok", "no_spread"]


def test_blocks_and_rounds_do_not_change_the_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.stack([pareto(300, 2.2, seed=seed) for seed in range(5)])
    whole = fit_power_laws(values)
    monkeypatch.setattr("htmuon.analysis.power_law._BLOCK_ELEMENTS", 1)
    monkeypatch.setattr("htmuon.analysis.power_law._BOUND_POINTS", 3)
    monkeypatch.setattr("htmuon.analysis.power_law._TAILS_PER_ROUND", 1)
    assert fit_power_laws(values) == whole


def test_many_spectra_need_no_loop_and_little_memory() -> None:
    assert len(fit_power_laws(lognormal(2000 * 64, 0.0, 1.0).view(2000, 64))) == 2000


def test_a_tail_at_the_upper_end_is_a_status() -> None:
    # A dense bulk and nine values far above: the nine are the nearest to a power law, and too few to say so.
    values = torch.cat([torch.linspace(0.9, 1.0, 60), 100 * torch.linspace(0.06, 0.94, 9) ** -0.5])
    _, _, xmin = slow_ks_fit(values.double(), min_tail_size=2)
    assert xmin > 10
    fit = fit_power_law(values)
    assert fit.status == "short_tail"
    assert math.isnan(fit.alpha)
    assert "upper end" in fit.message


def test_hill_equals_its_formula() -> None:
    values = pareto(101, 2.0)
    ordered = values.sort().values
    start, count = 50, 51
    expected = 1 + count / float(ordered[start:].log().sum() - count * ordered[start].log())
    fit = fit_power_law(values, estimator="hill")
    assert fit.alpha == pytest.approx(expected, rel=1e-12)
    assert (fit.tail_size, fit.xmin) == (count, float(ordered[start]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_alpha_does_not_depend_on_scale_or_order(estimator: str) -> None:
    values = pareto(200, 2.5)
    fit = fit_power_law(values, estimator=estimator)
    scaled = fit_power_law(values.flip(0) * 1e-9, estimator=estimator)
    # ln(x / xmin) loses digits to the size of ln x: 1e-10 leaves room for 21 / 1e-15 rounding units.
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-10)
    assert scaled.xmin == pytest.approx(fit.xmin * 1e-9, rel=1e-12)
    assert scaled.ks_distance == pytest.approx(fit.ks_distance, abs=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("values", "status"),
    [
        (torch.zeros(100), "too_few"),
        (torch.empty(0), "too_few"),
        (torch.arange(1.0, MIN_TAIL_SIZE), "too_few"),
        (torch.full((50,), 3.0), "no_spread"),
        (torch.cat([torch.arange(1.0, 50.0), torch.tensor([math.nan])]), "not_finite"),
        (torch.cat([torch.arange(1.0, 50.0), torch.tensor([math.inf])]), "not_finite"),
    ],
)
def test_what_cannot_be_fitted_is_a_status_and_no_number(estimator: str, values: Tensor, status: str) -> None:
    fit = fit_power_law(values, estimator=estimator)
    assert fit.status == status
    assert not fit.ok
    assert math.isnan(fit.alpha)
    assert math.isnan(fit.standard_error)
    assert fit.message


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_zeros_of_a_rank_deficient_matrix_are_left_out(estimator: str) -> None:
    values = pareto(100, 2.0)
    assert fit_power_law(torch.cat([values, torch.zeros(30)]), estimator=estimator) == fit_power_law(
        values, estimator=estimator
    )


def test_smallest_permitted_spectrum_is_fitted() -> None:
    fit = fit_power_law(pareto(MIN_TAIL_SIZE, 2.0), estimator="hill")
    assert fit.ok
    assert fit.tail_size == MIN_TAIL_SIZE


def test_rejects_a_stack_and_an_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="one-dimensional; got shape"):
        fit_power_law(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"two-dimensional \[batch, r\]; got shape"):
        fit_power_laws(torch.ones(3))
    with pytest.raises(ValueError, match="estimator must be one of ks, hill; got 'hil'"):
        fit_power_law(torch.ones(20), estimator="hil")  # type: ignore[arg-type]


def test_a_small_spread_is_one() -> None:
    values = 1 + 1e-6 * torch.arange(40, dtype=torch.float64)
    for estimator in ESTIMATORS:
        fit = fit_power_law(values, estimator=estimator)
        assert fit.status != "no_spread"


def test_the_tail_of_the_median_holds_all_that_equal_xmin() -> None:
    fit = fit_power_law(torch.arange(1.0, 22.0).square().repeat_interleave(3), estimator="hill")
    # The 32nd largest of 63 is 11^2, and so is the 33rd.
    assert (fit.xmin, fit.tail_size) == (121.0, 33)
