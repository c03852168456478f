"""Write the measured tables of README.md and docs/cost.md from benchmarks/results, so that no number is typed by hand.

    python benchmarks/readme_tables.py

`evidence/` is what `python benchmarks/evidence.py` keeps, `demo.txt` what `make demo` printed last,
`bench_llama-60m.json` what `make bench` writes, and `bench_*_gpu.json` what `benchmarks/gpu.sh` does.
"""

import json
from pathlib import Path

from evidence_tables import results, table
from page_parts import fill, markdown

from htmuon.bench import BenchResult
from htmuon.bench.bench_table import heads
from htmuon.bench.bench_table import rows as bench_rows

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "cost.md")
RESULTS = ROOT / "benchmarks" / "results"


def comparison_table() -> str:
    """The recipe of `make demo`, from the experiments of docs/results."""
    return table(results()["kinds-llama-tiny"])


def cost_table(result: BenchResult) -> str:
    head, *rows = heads(result), *bench_rows(result)
    first = ["candidate", "time", *(f"error, {column.removeprefix('err ')}" for column in head[3:])]
    # Milliseconds are those of one machine; what carries over is the ratio.
    table = markdown([first, *([name, ratio, *errors] for name, _, ratio, *errors in rows)])
    where = result.conditions
    how = f"{where['device']}, {where['threads']} threads, torch {where['torch']}, {where['date']}"
    on = "momentum recorded in training" if "median" in result.columns else "matrices by their condition"
    matrices = result.matrices.replace("*", r"\*")
    title = f"One step over {matrices}; errors on {on}:"
    return f"{title}\n\n{table}\n\nMedian ratios of one run, `{where['command']}` ({how})."


def filled(text: str) -> str:
    """A page with every measured section made anew."""
    demo = "".join(f"    {line}".rstrip() + "\n" for line in (RESULTS / "demo.txt").read_text().splitlines())
    text = fill(text, "demo", "\n" + demo)
    text = fill(text, "comparison", f"\n{comparison_table()}\n")
    text = fill(text, "cost", f"\n{cost_table(bench_result('llama-60m'))}\n")
    on_gpu = [cost_table(bench_result(f"{model}_gpu")) for model in ("llama-60m", "llama-1b")]
    return fill(text, "cost on a GPU", "\n" + "\n\n".join(on_gpu) + "\n")


def bench_result(name: str) -> BenchResult:
    return BenchResult.from_dict(json.loads((RESULTS / f"bench_{name}.json").read_text()))


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
