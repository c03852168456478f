"""Write the measured tables of README.md from the files in benchmarks/results, so that no number is typed by hand.

    python benchmarks/readme_tables.py

`comparison.json` is the `summary.json` of the comparison that `make tune` makes, `demo.txt` what `make demo` printed
last, `bench_llama-60m.json` what `make bench` writes.
"""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from htmuon.recipes.bench import BenchResult
from htmuon.recipes.bench.table import heads
from htmuon.recipes.bench.table import rows as bench_rows

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
    rows = [["optimizer", "lr", "validation loss", "perplexity", "ms/step", "optimizer's share", "state"]]
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
            ]
        )
    seeds = len(summary["optimizers"][0]["seeds"])
    how = "each optimizer with its own tuned learning rate (`make tune`)"
    tails = "their spectra are in [docs/heavy_tails.md](docs/heavy_tails.md)"
    text = f"`llama-tiny`, {seeds} seeds, {how}; {tails}:\n\n"
    return text + markdown(rows) + "\n\n" + "\n".join(f"- {sentence}" for sentence in summary["verdict"])


def cost_table(result: BenchResult) -> str:
    head, *rows = heads(result), *bench_rows(result)
    first = ["candidate", "time", *(f"error, {column}" for column in head[3:])]
    # Milliseconds are those of one machine; what carries over is the ratio.
    table = markdown([first, *([name, ratio, *errors] for name, _, ratio, *errors in rows)])
    where = result.conditions
    how = f"{where['device']}, {where['threads']} threads, torch {where['torch']}, {where['date']}"
    title = f"One step over {result.matrices}; errors on momentum recorded in training:"
    return f"{title}\n\n{table}\n\nMedian ratios of one run, `{where['command']}` ({how})."


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
    bench = BenchResult.from_dict(json.loads((RESULTS / "bench_llama-60m.json").read_text()))
    return fill(text, "cost", "\n" + cost_table(bench) + "\n")


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
