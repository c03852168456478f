"""Does HTMuon leave heavier tails than Muon? Trains `llama-tiny`, measures alpha, and writes docs/heavy_tails.md.

    python benchmarks/heavy_tails.py --out runs/heavy-tails

Trains AdamW, Muon and HTMuon at several powers with several seeds (about half an hour on two cores; given again, the
command resumes where it stopped), stores the numbers in benchmarks/results/heavy_tails.json, draws
docs/images/heavy_tails.png and fills the tables of the page. `--read` trains nothing and takes the runs as they are.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from page_parts import fill, markdown

from htmuon._files import slug
from htmuon.analysis import ESTIMATORS, Estimator, stable_rank
from htmuon.cli.terminal import terminal_display
from htmuon.compare.compare_config import CompareConfig
from htmuon.compare.comparing import compare
from htmuon.compare.labels import label, styles
from htmuon.compare.report.spectra_figures import evolution_figure
from htmuon.compare.run_record import RunRecord
from htmuon.compare.tuned_rates import TunedRecipe, load_tuned, tuned_to_json
from htmuon.recipes import RECIPES

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "heavy_tails.json"
FIGURE = ROOT / "docs" / "images" / "heavy_tails.png"
PAGE = ROOT / "docs" / "heavy_tails.md"
COMMAND = "python benchmarks/heavy_tails.py --out runs/heavy-tails"

RECIPE = "llama-tiny"
MUON = "muon:method=newton_schulz"
POWERS = (0.0625, 0.125, 0.25, 0.5)
SEEDS = (0, 1, 2)
SPECS = ("adamw", MUON, *("htmuon" if power == 0.125 else f"htmuon:power={power}" for power in POWERS))
ESTIMATOR_NAMES = {"ks": "KS", "hill": "Hill"}


def rates() -> TunedRecipe:
    """The stored learning rates; a power that has none takes that of HTMuon."""
    stored = load_tuned(Path(str(files("htmuon.compare") / "tuned.json")))[RECIPE]
    found = {spec: stored.optimizers.get(spec, stored.optimizers["htmuon"]) for spec in SPECS}
    return dataclasses.replace(stored, optimizers=found)


def train(out: Path) -> None:
    tuned = out.with_name(f"{out.name}-rates.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    tuned.write_text(tuned_to_json({RECIPE: rates()}))
    config = CompareConfig(run=RECIPES[RECIPE](), out=out, optimizers=SPECS, seeds=SEEDS, tuned_file=str(tuned))
    with terminal_display() as display:
        compare(config, command=COMMAND, display=display)


def read(out: Path) -> dict[str, list[RunRecord]]:
    """The runs of each optimizer, by seed."""
    folders = {spec: out.glob(f"runs/test/{slug(spec)}-lr*-seed*") for spec in SPECS}
    records = {
        spec: [RunRecord(path) for path in paths if (path / "result.json").exists()] for spec, paths in folders.items()
    }
    return {spec: sorted(runs, key=lambda run: run.config.seed) for spec, runs in records.items()}


def alphas(run: RunRecord, initial: bool = False) -> dict[str, Any]:
    """Mean alpha of the weights of one run by each estimator, over the matrices that could be fitted."""
    found: dict[str, Any] = {}
    for estimator in ESTIMATORS:
        fits = run.weight_fits(estimator, initial=initial)
        values = [fit.alpha for fit in fits.values() if fit.ok]
        found[f"alpha_{estimator}"] = statistics.fmean(values)
        found[f"fitted_{estimator}"] = len(values)
        found["matrices"] = len(fits)
    sigmas = run.spectra["initial_weights" if initial else "weights"].values()
    found["stable_rank"] = statistics.fmean(float(stable_rank(sigma)) for sigma in sigmas)
    return found


def gap(run: RunRecord, other: RunRecord, estimator: Estimator) -> float:
    """Mean difference of alpha over the matrices that could be fitted in both runs."""
    own, theirs = run.weight_fits(estimator), other.weight_fits(estimator)
    return statistics.fmean(own[name].alpha - theirs[name].alpha for name in own if own[name].ok and theirs[name].ok)


def evolution(runs: Sequence[RunRecord], quantity: str) -> dict[str, float]:
    """The mean over the recorded runs of what the monitor saw, by step."""
    curves = [curve for curve in (run.evolution("weights", quantity) for run in runs) if curve.steps]
    steps = sorted(set.intersection(*(set(curve.steps) for curve in curves))) if curves else []
    return {str(step): statistics.fmean(curve.values[curve.steps.index(step)] for curve in curves) for step in steps}


def results(records: dict[str, list[RunRecord]]) -> dict[str, Any]:
    first = next(iter(records.values()))
    machine = first[0].result
    assert machine is not None
    rows = []
    for spec, runs in records.items():
        rows.append(
            {
                "spec": spec,
                "lr": runs[0].config.optimizer.lr,
                "seeds": [run.config.seed for run in runs],
                "loss": [run.final_loss for run in runs],
                "weights": [alphas(run) for run in runs],
                "gaps": {e: [gap(*pair, e) for pair in zip(runs, records[MUON], strict=True)] for e in ESTIMATORS},
                "recorded_seeds": [run.config.seed for run in runs if run.evolution("weights", "stable_rank").steps],
                "evolution": {f"alpha_{estimator}": evolution(runs, f"alpha_{estimator}") for estimator in ESTIMATORS},
            }
        )
    return {
        "command": COMMAND,
        "recipe": RECIPE,
        "steps": first[0].config.steps,
        "device": f"{machine.device}, {machine.threads} threads, torch {machine.versions['torch']}",
        "before": [alphas(run, initial=True) for run in first],
        "optimizers": rows,
    }


def mean_and_spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    return f"{statistics.fmean(values):{sign}.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def name(spec: str) -> str:
    return "HTMuon (power=0.125)" if spec == "htmuon" else label(spec)


def weight_cells(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Alpha by both estimators with the number of fits, and the stable rank."""
    cells = []
    for estimator, digits in (("ks", 2), ("hill", 3)):
        counts = [run[f"fitted_{estimator}"] for run in runs]
        shown = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
        cells += [mean_and_spread([run[f"alpha_{estimator}"] for run in runs], digits)]
        cells += [f"{shown} of {runs[0]['matrices']}"]
    return [*cells, mean_and_spread([run["stable_rank"] for run in runs], 1)]


def alpha_table(result: dict[str, Any]) -> str:
    """Alpha, stable rank and loss of the final weights."""
    rows = [["optimizer", "lr", "alpha (KS)", "fitted", "alpha (Hill)", "fitted", "stable rank", "test loss"]]
    before = result["before"]
    rows.append(["before training", "", *weight_cells(before), ""])
    rows += [
        [name(row["spec"]), f"{row['lr']:g}", *weight_cells(row["weights"]), mean_and_spread(row["loss"], 4)]
        for row in result["optimizers"]
    ]
    seeds = ", ".join(map(str, result["optimizers"][0]["seeds"]))
    return (
        f"{markdown(rows)}\n\n`{RECIPE}`, {result['steps']} steps, seeds {seeds}. Means over the hidden matrices whose "
        "fit can be trusted (`fitted`, the range\nover the seeds), then mean and standard deviation over the seeds. "
        f"Made by\n`{result['command']}` ({result['device']})."
    )


def against_muon(result: dict[str, Any]) -> str:
    """One line for each optimizer: how far alpha is from Muon's, over the matrices fitted in both runs of a seed."""
    [muon] = [row for row in result["optimizers"] if row["spec"] == MUON]
    lines = []
    for row in result["optimizers"]:
        if row is muon:
            continue
        parts = []
        for estimator in ESTIMATORS:
            gaps = row["gaps"][estimator]
            below = sum(found < 0 for found in gaps)
            shown = mean_and_spread(gaps, 2 if estimator == "ks" else 3, "+")
            parts.append(f"{ESTIMATOR_NAMES[estimator]} {shown}, heavier on {below} of {len(gaps)} seeds")
        losses = [own - other for own, other in zip(row["loss"], muon["loss"], strict=True)]
        better = sum(loss < 0 for loss in losses)
        parts.append(f"loss {statistics.fmean(losses):+.4f}, lower on {better} of {len(losses)}")
        lines.append(f"- {name(row['spec'])} minus Muon: {'; '.join(parts)}.")
    return "\n".join(lines)


def evolution_table(result: dict[str, Any]) -> str:
    """Alpha over the steps, as the monitor recorded it."""
    steps = list(result["optimizers"][0]["evolution"]["alpha_ks"])
    rows = [["optimizer", *(f"step {step}" for step in steps)]]
    for row in result["optimizers"]:
        cells = [" / ".join(f"{row['evolution'][f'alpha_{e}'][step]:.2f}" for e in ESTIMATORS) for step in steps]
        rows.append([name(row["spec"]), *cells])
    recorded = result["optimizers"][0]["recorded_seeds"]
    seeds = f"seed{'s' if len(recorded) > 1 else ''} {', '.join(map(str, recorded))}"
    return f"{markdown(rows)}\n\nalpha (KS) / alpha (Hill), mean over matrices and over {seeds}."


def filled(text: str) -> str:
    """The page with every measured part made anew."""
    result = json.loads(RESULT.read_text())
    text = fill(text, "alpha", "\n" + alpha_table(result) + "\n")
    text = fill(text, "against muon", "\n" + against_muon(result) + "\n")
    return fill(text, "evolution", "\n" + evolution_table(result) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the comparison")
    parser.add_argument("--read", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if not arguments.read:
        train(arguments.out)
    records = read(arguments.out)
    RESULT.write_text(json.dumps(results(records), indent=1) + "\n")
    FIGURE.write_bytes(evolution_figure(records, styles(SPECS)).png())
    PAGE.write_text(filled(PAGE.read_text()))
    print(alpha_table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
