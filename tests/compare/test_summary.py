import csv
import io
import json
import math
from pathlib import Path

import pytest
from synthetic_runs import write_run

from htmuon.recipes.files import write_json
from htmuon.recipes.run_record import Curve, RunRecord
from htmuon.recipes.summary import first_crossing, summarize, summary_to_csv, summary_to_dict
from htmuon.recipes.verdict import exceeds_spread, verdict

LOSSES = {"adamw": (3.50, 3.52), "muon": (3.40, 3.44), "htmuon": (3.39, 3.45)}


def records(folder: Path, losses: dict[str, tuple[float, ...]] = LOSSES) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {}
    for spec, of_seed in losses.items():
        for seed, loss in enumerate(of_seed):
            path = folder / f"{spec}-{seed}"
            finite = math.isfinite(loss)
            write_run(path, optimizer=spec, seed=seed, final_loss=loss if finite else 3.0, diverged=not finite)
            found.setdefault(spec, []).append(RunRecord(path))
    return found


def test_numbers_of_the_table(tmp_path: Path) -> None:
    adamw, muon, _ = summarize(records(tmp_path))
    assert (adamw.differences, adamw.difference, adamw.steps_to_baseline) == ((), None, None)
    assert muon.loss == pytest.approx(3.42)
    assert muon.spread == pytest.approx(0.04 / math.sqrt(2))  # standard deviation of two values: distance / sqrt(2)
    assert muon.perplexity == pytest.approx(math.exp(3.42))
    assert muon.differences == pytest.approx((-0.10, -0.08))
    assert muon.difference == pytest.approx(-0.09)
    assert muon.difference_spread == pytest.approx(0.02 / math.sqrt(2))
    assert muon.optimizer_share == pytest.approx(0.2)
    assert (muon.seeds, muon.diverged, muon.optimizer_state_bytes) == ((0, 1), 0, 2 * 10**7)
    assert muon.tokens_to_baseline == pytest.approx(100 * (muon.steps_to_baseline or 0))
    # The curve is known: 3.42 + 5 (exp(-4 t) - exp(-4)) = 3.51; evaluations are 20 steps apart.
    exact = -200 * math.log(0.09 / 5 + math.exp(-4)) / 4
    assert muon.steps_to_baseline == pytest.approx(exact, abs=5)
    assert math.isfinite(muon.alpha_ks)
    assert math.isfinite(muon.alpha_hill)


def test_a_diverged_run_counts_as_infinite(tmp_path: Path) -> None:
    adamw, muon = summarize(records(tmp_path, {"adamw": (3.5, 3.5), "muon": (3.4, math.inf)}))
    assert (muon.loss, muon.diverged, muon.spread, muon.perplexity) == (math.inf, 1, None, math.inf)
    plain = summary_to_dict(muon)
    assert plain["loss"] is None
    assert plain["losses"] == [3.4, None]
    assert verdict([adamw, muon]) == [
        "AdamW reaches the lowest validation loss of 3.5000 (perplexity 33.12).",
        "Diverged in at least one run: Muon.",
    ]


def test_a_run_that_was_stopped_counts_as_infinite(tmp_path: Path) -> None:
    found = records(tmp_path, {"adamw": (3.5,), "muon": (3.4,)})
    (found["muon"][0].folder / "result.json").unlink()
    muon = summarize(found)[1]
    assert (muon.losses, muon.optimizer_state_bytes) == ((math.inf,), None)
    assert math.isnan(muon.seconds_per_step)


def test_verdict_says_clear_wins_and_ties(tmp_path: Path) -> None:
    adamw, muon, htmuon = summarize(records(tmp_path))
    assert exceeds_spread(muon, adamw) is True
    assert exceeds_spread(htmuon, muon) is False
    headline, *rest = verdict([adamw, muon, htmuon])
    assert headline.startswith("The lowest validation loss is a tie between 2 optimizers: ")
    assert any(sentence.endswith("so call it a tie.") for sentence in rest)
    assert any(
        "Against AdamW (3.5100)" in sentence and "is 0.0900 lower: more than the spread" in sentence
        for sentence in rest
    )
    assert any("indication" in sentence for sentence in rest)
    assert any("1.00 times as long" in sentence for sentence in rest)


def test_baseline_may_win(tmp_path: Path) -> None:
    summaries = summarize(records(tmp_path, {"adamw": (3.0, 3.0, 3.0), "htmuon": (3.3, 3.2, 3.1)}))
    headline, against, *rest = verdict(summaries)
    assert headline.startswith("AdamW reaches the lowest")
    assert "Against HTMuon (3.2000) AdamW is 0.2000 lower: more than the spread" in against
    assert "Three seeds give an indication" in rest[0]


def test_one_seed_makes_no_claim_about_chance(tmp_path: Path) -> None:
    summaries = summarize(records(tmp_path, {"adamw": (3.5,), "muon": (3.4,)}))
    assert exceeds_spread(summaries[1], summaries[0]) is None
    assert "a single seed says nothing about chance" in verdict(summaries)[1]


def test_csv_and_json_hold_the_same_numbers(tmp_path: Path) -> None:
    summaries = summarize(records(tmp_path))
    rows = list(csv.DictReader(io.StringIO(summary_to_csv(summaries))))
    write_json(tmp_path / "summary.json", [summary_to_dict(summary) for summary in summaries])
    for row, plain in zip(rows, json.loads((tmp_path / "summary.json").read_text()), strict=True):
        assert set(row) == set(plain)
        assert float(row["loss"]) == plain["loss"]
        assert [float(loss) for loss in row["losses"].split()] == plain["losses"]


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [([5.0, 4.0, 3.0], 3.5, 150.0), ([5.0, 4.0, 3.0], 5.0, 0.0), ([5.0, 4.0, 3.0], 2.0, None), ([5.0], math.inf, None)],
)
def test_first_crossing(values: list[float], target: float, expected: float | None) -> None:
    assert first_crossing(Curve([0, 100, 200][: len(values)], values), target) == expected
