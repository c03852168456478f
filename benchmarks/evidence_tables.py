"""The tables of docs/results/README.md, from benchmarks/results/evidence."""

import json
from pathlib import Path
from typing import Any

from pages import fill, markdown

from htmuon.recipes.labels import label

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "evidence"


def results() -> dict[str, dict[str, Any]]:
    """Every stored experiment."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def filled(text: str) -> str:
    """The page with every measured part made anew."""
    for experiment, result in results().items():
        text = fill(text, experiment, f"\n{section(result)}\n")
    return text


def section(result: dict[str, Any]) -> str:
    """The table of one experiment, its verdict, and how it was made."""
    seeds, threads = len(result["optimizers"][0]["seeds"]), result["threads"]
    made = (
        f"{result['parameters']:,} parameters, {result['hidden_parameters']:,} of them in hidden matrices; "
        f"{result['steps']:,} steps of {result['examples_per_step']:,} {'images' if on_images(result) else 'tokens'}; "
        f"{seeds} seeds, learning rates tuned on {len(result['tuning_seeds'])} other. `{result['command']}` "
        f"({result['device']}, {threads} thread{'s' if threads > 1 else ''}, torch {result['versions']['torch']})."
    )
    verdict = "\n".join(f"- {sentence}" for sentence in [*result["verdict"], *result["warnings"]])
    return f"{table(result)}\n\n{verdict}\n\n{made}"


def table(result: dict[str, Any]) -> str:
    """One row for each optimizer: its rate, loss, difference to the baseline, and the price of a step."""
    [baseline] = [row for row in result["optimizers"] if row["spec"] == result["baseline"]]
    quality = "accuracy, %" if on_images(result) else "perplexity"
    head = ["optimizer", "lr", "validation loss", quality, "minus Muon (95 % interval)", "judgement", "time of a step"]
    rows = [head]
    for row in result["optimizers"]:
        shown = f"{row['perplexity']:.2f}" if row["perplexity"] else ""
        if on_images(result):
            shown = mean_and_spread(100 * row["accuracy"], 100 * row["accuracy_spread"], 2)
        rows.append(
            [
                name(row["spec"]),
                f"{row['lr']:g}",
                mean_and_spread(row["loss"], row["spread"], 4),
                shown,
                difference(row),
                row["judgement"] or "",
                f"{row['seconds_per_step'] / baseline['seconds_per_step']:.2f}x",
            ]
        )
    return markdown(rows)


def on_images(result: dict[str, Any]) -> bool:
    return result["optimizers"][0]["accuracy"] is not None


def name(spec: str) -> str:
    """What a table calls an optimizer: the default power is said, for others stand beside it."""
    return "HTMuon (power=0.125)" if spec == "htmuon" else label(spec)


def mean_and_spread(mean: float, spread: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if spread is None else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    return f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})"
