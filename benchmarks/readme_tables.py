"""Write the measured tables of README.md from the files in benchmarks/results, so that no number is typed by hand.

    python benchmarks/readme_tables.py

`comparison.json` is the `summary.json` of the comparison that `make tune` makes, `demo.txt` what `make demo` printed
last, `optimizer_step.json` the result of `benchmarks/optimizer_step.py`.
"""

import json
import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
NAMES = {
    "adamw": "AdamW",
    "muon:method=newton_schulz": "Muon (five Newton-Schulz steps, as `torch.optim.Muon`)",
    "muon": "Muon (exact polar factor)",
    "htmuon": "HTMuon (`none`, as published)",
    "htmuon:normalization=rms": "HTMuon (`rms`)",
}


def markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def comparison_table(summary: dict[str, Any]) -> str:
    rows = [["optimizer", "lr", "validation loss", "perplexity", "ms/step", "optimizer's share", "state", "alpha (KS)"]]
    for entry in summary["optimizers"]:
        share = entry["optimizer_seconds_per_step"] / entry["seconds_per_step"]
        rows.append(
            [
                NAMES[entry["spec"]],
                f"{entry['lr']:.3g}",
                f"{statistics.fmean(entry['losses']):.4f} ± {statistics.stdev(entry['losses']):.4f}",
                f"{entry['perplexity']:.1f}",
                f"{1e3 * entry['seconds_per_step']:.0f}",
                f"{share:.0%}",
                f"{entry['optimizer_state_bytes'] / 1e6:.1f} MB",
                f"{entry['alpha_ks']:.2f}",
            ]
        )
    seeds = len(summary["optimizers"][0]["seeds"])
    text = f"`llama-tiny`, {seeds} seeds, each optimizer with its own tuned learning rate (`make tune`):\n\n"
    return text + markdown(rows) + "\n\n" + "\n".join(f"- {sentence}" for sentence in summary["verdict"])


def cost_table(result: dict[str, Any]) -> str:
    conditions = list(next(iter(result["error"].values())))
    rows = [["one step over the hidden matrices of LLaMA-60M", "time", *(f"error, condition {c}" for c in conditions)]]
    for name, ratio in result["ratio"].items():
        errors = [f"{value:.0e}" for value in result["error"].get(name, {}).values()] or [""] * len(conditions)
        rows.append([name, f"{ratio:.2f}x", *errors])
    where = f"{result['device']}, {result['threads']} threads, torch {result['torch']}, {result['date']}"
    return f"{markdown(rows)}\n\nMedian ratios of one run, `{result['command']}` ({where})."


def fill(text: str, name: str, content: str) -> str:
    """Put `content` between the markers of a section."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{content}\n{match[2]}", text, flags=re.DOTALL)


def filled(text: str) -> str:
    """The README with every measured section made anew."""
    demo = "".join(f"    {line}".rstrip() + "\n" for line in (RESULTS / "demo.txt").read_text().splitlines())
    text = fill(text, "demo", "\n" + demo)
    text = fill(
        text, "comparison", "\n" + comparison_table(json.loads((RESULTS / "comparison.json").read_text())) + "\n"
    )
    return fill(text, "cost", "\n" + cost_table(json.loads((RESULTS / "optimizer_step.json").read_text())) + "\n")


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
