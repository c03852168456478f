import math
from pathlib import Path

import pytest
from synthetic_runs import write_run

from htmuon.recipes.equal_budget import equal_steps, equal_time, loss_at
from htmuon.recipes.run_record import Curve, RunRecord


def records(folder: Path, paces: dict[str, float], losses: dict[str, float]) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {}
    for spec, pace in paces.items():
        for seed in (0, 1):
            path = folder / f"{spec}-{seed}"
            write_run(path, optimizer=spec, seed=seed, final_loss=losses[spec] + 0.1 * seed, seconds=pace)
            found.setdefault(spec, []).append(RunRecord(path))
    return found


def curve(final: float, step: float) -> float:
    """What the synthetic runs follow over their 200 steps."""
    return final + 5 * (math.exp(-4 * step / 200) - math.exp(-4))


def test_equal_steps_ends_at_the_final_losses(tmp_path: Path) -> None:
    budgets = equal_steps(records(tmp_path, {"muon": 0.1, "htmuon": 0.2}, {"muon": 3.0, "htmuon": 2.9}), "muon")
    assert [(budget.amount, budget.unit) for budget in budgets] == [(s, "steps") for s in (50, 100, 150, 200)]
    muon, htmuon = budgets[-1].optimizers
    assert (muon.losses, muon.differences) == (pytest.approx((3.0, 3.1)), ())
    assert htmuon.differences == pytest.approx((-0.1, -0.1))
    assert budgets[1].optimizers[0].losses[0] == pytest.approx(curve(3.0, 100))


def test_equal_time_is_that_of_the_fastest(tmp_path: Path) -> None:
    budgets = equal_time(records(tmp_path, {"muon": 0.1, "htmuon": 0.2}, {"muon": 3.0, "htmuon": 2.9}), "muon")
    last = budgets[-1]
    assert (last.unit, last.amount) == ("seconds", pytest.approx(20.0))
    muon, htmuon = last.optimizers
    assert [entry.steps for entry in (muon, htmuon)] == pytest.approx([200, 100])
    # Twice as slow, HTMuon has done half of its steps when Muon is finished.
    assert htmuon.losses == pytest.approx((curve(2.9, 100), curve(3.0, 100)))
    assert htmuon.difference == pytest.approx(curve(2.9, 100) - 3.0)
    assert htmuon.judgement == "worse"
    plain = last.to_dict()
    assert plain["optimizers"][1]["difference"] == htmuon.difference
    assert plain["optimizers"][0]["difference_low"] is None


def test_a_run_that_diverged_does_not_shorten_the_budget(tmp_path: Path) -> None:
    found = records(tmp_path, {"muon": 0.2}, {"muon": 3.0})
    write_run(tmp_path / "bad", optimizer="htmuon", seed=0, final_loss=3.0, seconds=0.001, diverged=True)
    found["htmuon"] = [RunRecord(tmp_path / "bad")]
    assert equal_time(found, "muon")[-1].amount == pytest.approx(40.0)
    assert equal_time({"htmuon": found["htmuon"]}, "htmuon") == []


@pytest.mark.parametrize(("step", "loss"), [(100, 4.0), (150, 3.5), (200, 3.0), (50, math.nan), (201, math.inf)])
def test_loss_at_a_step(step: float, loss: float) -> None:
    assert loss_at(Curve([100, 200], [4.0, 3.0]), step) == pytest.approx(loss, nan_ok=True)
    assert loss_at(Curve([], []), step) == math.inf
