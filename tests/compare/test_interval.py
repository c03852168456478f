import math

import pytest
import torch
from scipy import stats

from htmuon.compare.baseline_choice import choose_baseline
from htmuon.compare.interval import ConfidenceInterval, mean_interval, student_quantile


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_quantiles_are_those_of_scipy(probability: float) -> None:
    for degrees in [*range(1, 40), 200, 1001]:
        expected = stats.t.ppf((1 + probability) / 2, degrees)
        # The finite sum is exact; what is left is rounding, times the condition of the tail (about 1 / (1 - p)).
        assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-11)


def test_quantiles_at_the_ends() -> None:
    assert student_quantile(0.0, 3) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"probability must be at least 0 and below 1; got 1"):
        student_quantile(1.0, 3)
    with pytest.raises(ValueError, match=r"degrees must be at least 1; got 0"):
        student_quantile(0.95, 0)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_the_interval_is_that_of_the_paired_t_test(count: int) -> None:
    torch.manual_seed(count)
    ours, theirs = torch.randn(count).double().tolist(), torch.randn(count).double().tolist()
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)).double() + 0.7
    found = [mean_interval(draw) for draw in draws.tolist()]
    share = sum(interval is not None and interval.low <= 0.7 <= interval.high for interval in found) / len(found)
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(found))  # four standard deviations of a share


def test_one_pair_has_no_interval() -> None:
    assert mean_interval([0.1]) is None
    assert mean_interval([]) is None


@pytest.mark.parametrize(
    ("low", "high", "judgement"),
    [(-0.2, -0.1, "better"), (0.1, 0.2, "worse"), (-0.1, 0.2, "no difference seen"), (0.0, 0.0, "no difference seen")],
)
def test_the_judgement_is_read_from_the_interval(low: float, high: float, judgement: str) -> None:
    assert ConfidenceInterval(low, high).judgement == judgement


@pytest.mark.parametrize(
    ("specs", "named", "chosen"),
    [
        (("adamw", "muon", "htmuon"), "", "muon"),
        (("adamw", "htmuon", "muon:method=newton_schulz"), "", "muon:method=newton_schulz"),
        (("adamw", "muon:power=0.25", "muon:power=0"), "", "muon:power=0"),
        (("adamw", "torch_muon"), "", "torch_muon"),
        (("adamw", "htmuon", "normuon"), "", "adamw"),
        (("adamw", "muon", "htmuon"), "htmuon", "htmuon"),
    ],
)
def test_the_baseline_is_the_named_one_or_muon_or_the_first(specs: tuple[str, ...], named: str, chosen: str) -> None:
    assert choose_baseline(specs, named) == chosen


def test_a_baseline_that_is_not_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"baseline must be one of adamw, muon; got 'moun'\. Did you mean 'muon'"):
        choose_baseline(("adamw", "muon"), "moun")
