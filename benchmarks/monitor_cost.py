"""The share of training time that a SpectralMonitor takes, measured inside real training of `llama-tiny`.

    python benchmarks/monitor_cost.py

For each optimizer, a plain loop with the monitor at its default (`every="auto"`) and at the interval of the recipe. The
share is the time of all records, copies of weights included, over the time of the loop. What a step without a record
costs is measured by itself, over many calls. The result goes to benchmarks/results/monitor_cost.json and to
docs/monitor.md.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from page_parts import fill, markdown
from timing import conditions, write

from htmuon._device import pick_device
from htmuon.analysis.monitor import SpectralMonitor
from htmuon.baselines.specs import build_optimizer
from htmuon.compare.labels import label
from htmuon.data.text.corpus import read_files
from htmuon.data.text.text_in_memory import LanguageModelling
from htmuon.data.text.token_cache import TokenizedText, prepare_tokens
from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "monitor_cost.json"
PAGE = ROOT / "docs" / "monitor.md"
IDLE_CALLS = 10_000


def training(
    config: RunConfig, text: TokenizedText, spec: str, every: int | Literal["auto"], folder: Path
) -> dict[str, Any]:
    """Train with a monitor and return what it cost."""
    device = pick_device(config.device)
    model = config.model.build_model(**config.data.sizes, seed=config.seed).to(device)
    task = LanguageModelling(config, config.data, text, device)
    optimizer = build_optimizer(spec, model, lr=0.005, adamw_lr=0.004, weight_decay=0.1)
    path = folder / f"{spec}-{every}.jsonl"
    recorded = []
    with SpectralMonitor(model, optimizer, every=every, path=path, attach=False) as monitor:
        began = time.perf_counter()
        for step in range(config.steps):
            task.training_loss(model, task.fetch(step)).backward()
            spent = monitor.seconds
            monitor.before_step()
            optimizer.step()
            monitor.after_step()
            if monitor.seconds > spent:
                recorded.append({"step": monitor.step, "seconds": monitor.seconds - spent})
            optimizer.zero_grad()
        seconds = time.perf_counter() - began
        return {
            "optimizer": spec,
            "every": every,
            "share": monitor.seconds / seconds,
            "seconds": seconds,
            "records": recorded,
            "bytes": path.stat().st_size,
            "idle_share": idle_seconds(model, optimizer) / (seconds / config.steps),
        }


def idle_seconds(model: Any, optimizer: Any) -> float:
    """What a step that is not recorded pays."""
    with SpectralMonitor(model, optimizer, every=10 * IDLE_CALLS, step=1, attach=False) as monitor:
        began = time.perf_counter()
        for _ in range(IDLE_CALLS):
            monitor.before_step()
            monitor.after_step()
        return (time.perf_counter() - began) / IDLE_CALLS


def cost_table(result: dict[str, Any]) -> str:
    rows = [["optimizer", "every", "share of the time", "records", "seconds a record", "a step without one"]]
    for case in result["cases"]:
        seconds = [record["seconds"] for record in case["records"]]
        rows.append(
            [
                label(case["optimizer"]),
                f'"{case["every"]}"' if case["every"] == "auto" else str(case["every"]),
                f"{case['share']:.2%}",
                str(len(seconds)),
                f"{statistics.median(seconds):.2f}",
                f"{case['idle_share']:.5%}",
            ]
        )
    where = f"{result['device']}, {result['threads']} threads, torch {result['torch']}, {result['date']}"
    return (
        f"{markdown(rows)}\n\n`{result['recipe']}`, {result['steps']} steps, 42 matrices in three kinds a record: "
        f"`{result['command']}` ({where})."
    )


def filled(text: str) -> str:
    """The page with the measured costs made anew."""
    return fill(text, "cost of the monitor", "\n" + cost_table(json.loads(RESULT.read_text())) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "htmuon"])
    arguments = parser.parse_args()
    config = RECIPES["llama-tiny"]()
    assert config.monitor_every is not None
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        text = prepare_tokens(read_files(config.data.path), config.data, Path(folder), print)
        for spec in arguments.optimizers:
            for every in ("auto", config.monitor_every):
                case = training(config, text, spec, every, Path(folder))
                cases.append(case)
                print(
                    f"{spec}, every={every}: {case['share']:.2%} of {case['seconds']:.0f} s, records at "
                    f"{[record['step'] for record in case['records']]}, {case['bytes'] / 1e3:.0f} kB; "
                    f"a step without a record {case['idle_share']:.4%}"
                )
    write(RESULT, {**conditions(), "recipe": config.recipe, "steps": config.steps, "cases": cases})
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
