"""The share of training time that a SpectralMonitor takes, measured inside real training of `llama-tiny`.

    python benchmarks/monitor_cost.py --json benchmarks/results/monitor_cost.json

For each optimizer, a plain loop with the monitor at its default (`every="auto"`) and at the interval of the recipe. The
share is the time of all records, copies of weights included, over the time of the loop. What a step without a record
costs is measured by itself, over many calls.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from timing import conditions, write

from htmuon.analysis.monitor import SpectralMonitor
from htmuon.recipes import RECIPES, RunConfig
from htmuon.recipes.device import pick_device
from htmuon.recipes.llm.corpus import read_files
from htmuon.recipes.llm.task import LanguageModelling, build_model
from htmuon.recipes.llm.tokens import TokenizedText, prepare_tokens
from htmuon.recipes.optimizers import build_optimizer

IDLE_CALLS = 10_000


def training(
    config: RunConfig, text: TokenizedText, spec: str, every: int | Literal["auto"], folder: Path
) -> dict[str, Any]:
    """Train with a monitor and return what it cost."""
    device = pick_device(config.device)
    model = build_model(config).to(device)
    task = LanguageModelling(config, text, device)
    optimizer = build_optimizer(spec, model, lr=0.005, adamw_lr=0.004, weight_decay=0.1)
    path = folder / f"{spec}-{every}.jsonl"
    recorded = []
    with SpectralMonitor(model, optimizer, every=every, path=path, attach=False) as monitor:
        began = time.perf_counter()
        for step in range(config.steps):
            task.training_loss(model, step).backward()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "htmuon"])
    parser.add_argument("--json", type=Path, help="where to store the results")
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
    write(arguments.json, {**conditions(), "recipe": config.recipe, "steps": config.steps, "cases": cases})


if __name__ == "__main__":
    main()
