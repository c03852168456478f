import csv
import io
import json
import math
from pathlib import Path

import pytest
from scipy import stats
from synthetic_runs import write_run

from htmuon._files import write_json
from htmuon.compare.run_record import Curve, RunRecord
from htmuon.compare.summary import first_crossing, summarize, summary_to_csv, summary_to_dict
from htmuon.compare.verdict import Confirmation, verdict, winner

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
    adamw, muon, _ = summarize(records(tmp_path), "adamw")
    assert (adamw.differences, adamw.difference, adamw.steps_to_baseline) == ((), None, None)
    assert muon.loss == pytest.approx(3.42)
    assert muon.spread == pytest.approx(0.04 / math.sqrt(2))  # standard deviation of two values: distance / sqrt(2)
    assert muon.perplexity == pytest.approx(math.exp(3.42))
    assert muon.differences == pytest.approx((-0.10, -0.08))
    assert muon.difference == pytest.approx(-0.09)
    assert muon.difference_spread == pytest.approx(0.02 / math.sqrt(2))
    reach = stats.t.ppf(0.975, 1) * 0.02 / math.sqrt(2) / math.sqrt(2)
    assert muon.interval is not None
    assert (muon.interval.low, muon.interval.high) == pytest.approx((-0.09 - reach, -0.09 + reach))
    assert muon.optimizer_share == pytest.approx(0.2)
    assert (muon.seeds, muon.diverged, muon.optimizer_state_bytes) == ((0, 1), 0, 2 * 10**7)
    assert muon.tokens_to_baseline == pytest.approx(100 * (muon.steps_to_baseline or 0))
    # The curve is known: 3.42 + 5 (exp(-4 t) - exp(-4)) = 3.51; evaluations are 20 steps apart.
    exact = -200 * math.log(0.09 / 5 + math.exp(-4)) / 4
    assert muon.steps_to_baseline == pytest.approx(exact, abs=5)
    assert math.isfinite(muon.alpha_ks)
    assert math.isfinite(muon.alpha_hill)


def test_a_diverged_run_counts_as_infinite(tmp_path: Path) -> None:
    adamw, muon = summarize(records(tmp_path, {"adamw": (3.5, 3.5), "muon": (3.4, math.inf)}), "adamw")
    assert (muon.loss, muon.diverged, muon.spread, muon.perplexity) == (math.inf, 1, None, math.inf)
    plain = summary_to_dict(muon)
    assert plain["loss"] is None
    assert plain["losses"] == [3.4, None]
    assert verdict([adamw, muon]) == [
        "AdamW reaches the lowest test loss of 3.5000 (perplexity 33.12).",
        "Diverged in at least one run: Muon.",
    ]
    assert verdict(summarize(records(tmp_path / "muon", {"adamw": (3.5,), "muon": (math.inf,)}))) == [
        "AdamW reaches the lowest test loss of 3.5000 (perplexity 33.12).",
        "Diverged in at least one run: Muon.",
    ]


def test_a_run_that_was_stopped_counts_as_infinite(tmp_path: Path) -> None:
    found = records(tmp_path, {"adamw": (3.5,), "muon": (3.4,)})
    (found["muon"][0].folder / "result.json").unlink()
    muon = summarize(found)[1]
    assert (muon.losses, muon.optimizer_state_bytes) == ((math.inf,), None)
    assert math.isnan(muon.seconds_per_step)


def test_verdict_is_read_from_the_interval(tmp_path: Path) -> None:
    losses = {"adamw": (3.50, 3.52, 3.54), "muon": (3.40, 3.44, 3.42), "htmuon": (3.39, 3.45, 3.41)}
    adamw, muon, htmuon = summarize(records(tmp_path, losses))
    assert [summary.judgement for summary in (adamw, muon, htmuon)] == ["worse", None, "no difference seen"]
    headline, *rest = verdict([adamw, muon, htmuon])
    assert headline == (
        "HTMuon reaches the lowest test loss of 3.4167 (perplexity 30.47), but no difference to Muon is seen."
    )
    assert rest[0] == (
        "No difference seen between HTMuon and Muon: -0.0033, 95% interval -0.0320 to +0.0254, over 3 paired seeds."
    )
    assert rest[1].startswith("AdamW is worse than Muon: +0.1000, 95% interval +0.0503 to +0.1497, over 3 paired")
    assert rest[2].startswith("A step of HTMuon takes 1.00 times as long as one of Muon")
    better = verdict(summarize(records(tmp_path / "again", losses), "adamw"))
    assert any(sentence.startswith("Muon is better than AdamW: -0.1000, 95% interval") for sentence in better)


def test_few_seeds_say_so(tmp_path: Path) -> None:
    (adamw, muon) = summarize(records(tmp_path, {"adamw": (3.5,), "muon": (3.4,)}))
    assert adamw.judgement is None
    sentences = verdict([adamw, muon])
    assert "AdamW minus Muon: +0.1000; a single seed says nothing about chance." in sentences
    assert any(sentence.startswith("One seed is fewer than the three") for sentence in sentences)


WIDE = {f"htmuon:power={p}": (3.40 + p, 3.41 + p, 3.42 + p) for p in (0.1, 0.2, 0.3, 0.4)}


def test_the_winner_of_a_wide_search_does_not_count_yet(tmp_path: Path) -> None:
    losses = {"muon": (3.9, 3.92, 3.91), **WIDE, "adamw": (3.99, 4.02, 3.98)}
    needed = Confirmation(kind="needed", text="htmuon compare llama-tiny --confirm runs/sweep")
    sentences = verdict(summarize(records(tmp_path, losses)), confirmation=needed)
    assert sentences[1].startswith("Better than Muon: HTMuon (power=0.1) (-0.4000), HTMuon (power=0.2) (-0.3000)")
    assert sentences[2] == "Worse than Muon: AdamW (+0.0867)."
    assert sentences[3] == (
        "The winner among 6 optimizers is partly the luckiest: HTMuon (power=0.1) counts as better than Muon only when "
        "both are tuned again and 5 fresh seeds confirm it: htmuon compare llama-tiny --confirm runs/sweep"
    )
    few = dict(list(losses.items())[:5])
    told = verdict(summarize(records(tmp_path / "few", few)), confirmation=needed)
    assert not any("luckiest" in sentence for sentence in told)


def test_the_winner_is_better_by_its_interval_if_any_is(tmp_path: Path) -> None:
    noisy, steady = (3.0, 3.9, 3.4), (3.49, 3.59, 3.39)
    losses = {"muon": (3.5, 3.6, 3.4), "adamw": noisy, "htmuon": steady, "normuon": (3.7, 3.7, 3.7)}
    summaries = summarize(records(tmp_path, losses))
    assert [getattr(winner(found), "spec", None) for found in (summaries, summaries[:2], summaries[:1])] == [
        "htmuon",
        "adamw",
        None,
    ]


@pytest.mark.parametrize(
    ("seeds", "gain", "says"),
    [
        (5, 0.1, "confirms"),
        (5, 0.0, "does not confirm"),
        (5, -0.1, "does not confirm"),
        (3, 0.1, "does not confirm"),
    ],
)
def test_a_confirmation_needs_five_seeds_and_an_interval(tmp_path: Path, seeds: int, gain: float, says: str) -> None:
    muon = [3.4 + 0.01 * seed for seed in range(seeds)]
    winner = [loss - gain + 0.001 * (-1) ** seed for seed, loss in enumerate(muon)]
    found = summarize(records(tmp_path, {"muon": tuple(muon), "htmuon": tuple(winner)}))
    first = verdict(found, confirmation=Confirmation(kind="done", text="runs/sweep"))[0]
    assert first == (
        f"This comparison, tuned again and with {seeds} fresh seeds, on data that no run of the search was judged "
        f"by, {says} that HTMuon, the winner of the search in "
        "runs/sweep, is better than Muon."
    )


def test_a_winner_that_diverges_is_not_confirmed(tmp_path: Path) -> None:
    found = summarize(records(tmp_path, {"muon": (3.5,) * 6, "htmuon": (*(3.4,) * 5, math.inf)}))
    first, headline, *_ = verdict(found, confirmation=Confirmation(kind="done", text="runs/sweep"))
    assert "judged by, does not confirm that HTMuon" in first
    assert headline.startswith("Muon reaches the lowest")


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
