"""How much of the momentum is signal, by singular value: trains the narrow network with records and draws the figure.

    python benchmarks/signal_figure.py --out runs/signal

Network, data, steps and rates are those of the experiment `kinds` (benchmarks/results/evidence/kinds.json), the seed is
its first; p = -1/4, which is not in it, has Muon's rate. What was recorded goes to benchmarks/results/signal.json, the
figure to docs/images/signal.png. A run that is finished is not trained again.
"""

import argparse
import json
import shlex
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import EXPERIMENTS
from evidence_tables import MUON, ROOT, results
from timing import conditions, write

from htmuon._files import slug
from htmuon.cli.arguments import parse, recipe_of, run_settings
from htmuon.cli.compare import CompareArguments
from htmuon.compare.labels import styles
from htmuon.compare.report.spectra_figures import signal_figure
from htmuon.compare.run_record import RunRecord
from htmuon.routing.kinds import kind_of
from htmuon.training import train
from htmuon.training.run_config import RunConfig

RESULT = ROOT / "benchmarks" / "results" / "signal.json"
FIGURE = ROOT / "docs" / "images" / "signal.png"
RULE = f"{MUON},rate_rule=alignment"
SPECS = {MUON: MUON, "htmuon": "htmuon", "htmuon:power=-0.25": MUON, RULE: RULE}


def narrow() -> RunConfig:
    """The settings of the experiment `kinds`."""
    _, _, *words = shlex.split(f"htmuon compare {EXPERIMENTS['kinds'].words}")
    recipe, rest = recipe_of(words)
    own = {"recipe", "optimizer", "seed", "split"}
    return run_settings(parse(CompareArguments, recipe, rest, prog="htmuon compare", without=own), recipe)


def record(out: Path, spec: str, lr: float, adamw_lr: float) -> RunRecord:
    """One run with records of its spectra."""
    config = narrow()
    optimizer = replace(config.optimizer, name=spec, lr=lr, adamw_lr=adamw_lr)
    folder = out / slug(spec)
    if not (folder / "result.json").exists():
        train(replace(config, optimizer=optimizer, seed=0, split="test", monitor_every=25), folder)
    return RunRecord(folder)


def by_kind(run: RunRecord) -> dict[str, list[float]]:
    """The mean over layers and records of the share in each eighth, by kind of matrix."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for name, shares in run.signal().items():
        found[kind_of(name) or "other"].append(shares)
    return {kind: [round(fmean(column), 4) for column in zip(*rows, strict=True)] for kind, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/signal"))
    out = parser.parse_args().out
    tuned = {row["spec"]: row for row in results()["kinds"]["optimizers"]}
    records, rows = {}, list[dict[str, Any]]()
    for spec, like in SPECS.items():
        lr, adamw_lr = tuned[like]["lr"], tuned[like]["adamw_lr"]
        run = record(out, spec, lr, adamw_lr)
        records[spec] = [run]
        rows.append({"spec": spec, "lr": lr, "loss": run.final_loss, "signal": by_kind(run)})
        print(json.dumps(rows[-1]))
    write(RESULT, {**conditions(), "optimizers": rows})
    FIGURE.write_bytes(signal_figure(records, styles(tuple(records))).png())


if __name__ == "__main__":
    main()
