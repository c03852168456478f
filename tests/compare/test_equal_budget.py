import json
import math
from pathlib import Path

import pytest
from synthetic_runs import write_run

from htmuon.compare.equal_budget import equal_steps, equal_time, loss_at
from htmuon.compare.run_record import Curve, RunRecord
from htmuon.compare.summary import summarize


def records(
    folder: Path, paces: dict[str, float], losses: dict[str, float], passes: float = 0.08
) -> dict[str, list[RunRecord]]:
    """Runs whose optimizers make the difference in pace."""
    found: dict[str, list[RunRecord]] = {}
    for spec, pace in paces.items():
        for seed in (0, 1):
            path = folder / f"{spec}-{seed}"
            write_run(
                path,
                optimizer=spec,
                seed=seed,
                final_loss=losses[spec] + 0.1 * seed,
                seconds=pace,
                optimizer_seconds=pace - passes,
            )
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


def test_forward_and_backward_pass_are_of_one_network(tmp_path: Path) -> None:
    losses = {"muon": 3.0, "htmuon": 2.9, "adamw": 3.1}
    found = records(tmp_path / "quiet", {"muon": 0.1}, losses)
    found |= records(tmp_path / "noisy", {"htmuon": 0.14}, losses, passes=0.12)
    found |= records(tmp_path / "quiet", {"adamw": 0.09}, losses)
    # Optimizers of 0.02, 0.02 and 0.01 s beside passes of 0.08 s, which were once measured while something else ran.
    steps = {entry.spec: entry.steps for entry in equal_time(found, "muon")[-1].optimizers}
    assert steps == pytest.approx({"muon": 180, "htmuon": 180, "adamw": 200})


def test_no_number_between_evaluations_that_lie_far_apart(tmp_path: Path) -> None:
    found = records(tmp_path, {"muon": 0.1, "htmuon": 0.2}, {"muon": 3.0, "htmuon": 2.9})
    for run in (run for runs in found.values() for run in runs):
        path = run.folder / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [line for line in lines if line["kind"] == "train" or line["step"] in (80, 160, 200)]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    last = equal_time(found, "muon")[-1]
    assert last.optimizers[0].losses == pytest.approx((3.0, 3.1))
    assert all(map(math.isnan, last.optimizers[1].losses))
    assert last.optimizers[1].judgement is None
    assert last.to_dict()["optimizers"][1]["loss"] is None


def test_no_judgement_of_the_pairs_that_a_divergence_of_the_baseline_left(tmp_path: Path) -> None:
    found = records(tmp_path, {"muon": 0.1, "htmuon": 0.1}, {"muon": 3.0, "htmuon": 2.9})
    for spec, diverged in (("muon", True), ("htmuon", False)):
        path = tmp_path / f"{spec}-2"
        write_run(path, optimizer=spec, seed=2, final_loss=3.2, diverged=diverged)
        found[spec].append(RunRecord(path))
    _, htmuon = summarize(found)
    assert len(htmuon.differences) == 2
    assert htmuon.judgement is None


def test_a_run_that_diverged_does_not_shorten_the_budget(tmp_path: Path) -> None:
    found = records(tmp_path, {"muon": 0.2}, {"muon": 3.0})
    write_run(
        tmp_path / "bad", optimizer="htmuon", seed=0, final_loss=3.0, seconds=0.001, optimizer_seconds=0, diverged=True
    )
    found["htmuon"] = [RunRecord(tmp_path / "bad")]
    assert equal_time(found, "muon")[-1].amount == pytest.approx(40.0)
    assert equal_time({"htmuon": found["htmuon"]}, "htmuon") == []


@pytest.mark.parametrize(("step", "loss"), [(100, 4.0), (150, 3.5), (200, 3.0), (50, math.nan), (201, math.inf)])
def test_loss_at_a_step(step: float, loss: float) -> None:
    assert loss_at(Curve([100, 200], [4.0, 3.0]), step, widest=100) == pytest.approx(loss, nan_ok=True)
    assert loss_at(Curve([], []), step, widest=100) == math.inf
