"""The rows of `htmuon.like` beside their packages: differences and sizes, as docs/from_muon.md has them.

    PYTHONPATH=...:FOLDER python benchmarks/like_table.py     # measures, keeps results/like.json, fills the page

FOLDER has the packages that no environment of this library needs, by `pip install --no-deps --target FOLDER`:
heavyball, optimuon, muonium, omnimuon, gram-newton-schulz, optax with jax, keras, mlx. What is not there is left as it
was measured last. keller, dion, and emerging-optimizers before Python 3.12 are steps written in tests/peer_steps.py
from their formulas, in float32.
"""

import json
import os
import sys
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from page_parts import fill, markdown
from torch import nn

import htmuon
from htmuon.optim.translation import PEERS, Like

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from peer_steps import CASES, Case, difference  # noqa: E402

PAGE = ROOT / "docs" / "from_muon.md"
RESULT = ROOT / "benchmarks" / "results" / "like.json"
SHAPE, RATE = (1024, 256), 0.02
# What must be said beside the defaults, where these have no match.
NEEDED: dict[str, dict[str, Any]] = {
    "optax": {"nesterov": False},
    "mlx": {"weight_decay": 0},
    "heavyball": {"heavyball_momentum": True},
    "muonium": {"wd": 0.0},
    "optimuon": {"normuon": False},
    "omnimuon": {"nesterov": False},
}


def distribution(module: str) -> str:
    """The name of what is installed for a module."""
    return module.split(".")[0].replace("_", "-").replace("pytorch-", "pytorch_")


def arguments(row: str) -> dict[str, Any]:
    """The defaults of a row with a learning rate of 0.02."""
    rate = "matrix_lr" if row == "omnimuon" else "lr"
    return {**NEEDED.get(row, {}), rate: RATE}


def size(make: Any) -> float:
    """The Frobenius norm of one update of a matrix by an optimizer, decay left out."""
    weight = nn.Parameter(torch.zeros(SHAPE))
    optimizer = make([weight])
    weight.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) / 100
    optimizer.step()
    return float(weight.norm())


def installed(case: Case) -> bool:
    """Whether the other optimizer of a case is here."""
    try:
        return case.make.module is not None and bool(import_module(case.make.module))
    except ImportError:
        return False


def measured(row: str) -> dict[str, Any]:
    """One row: what was compared, how far it is, and how large an update is there and here."""
    cases = [case for case in CASES if case.row == row]
    here = [case for case in cases if installed(case)]
    compared = here or [case for case in cases if case.make.module is None]
    there = size(lambda weights: compared[0].make(weights, **arguments(row)))
    package = compared[0].make.module
    return {
        "row": row,
        "version": version(distribution(package)) if package else PEERS[row].version,
        "reference": package is None,
        "cases": len(compared),
        "difference": max(difference(case) for case in compared),
        "there": there,
        "here": size(htmuon.like(row, **arguments(row)).make),
    }


def ours(made: Like) -> str:
    """The arguments of ours that differ from the defaults of the class, without rates and decay."""
    usual = made.optimizer([nn.Parameter(torch.eye(2))]).defaults
    said = {key: made[key] for key in made if key in usual and made[key] != usual[key]}
    for key in ("lr", "weight_decay", "eps"):
        said.pop(key, None)
    if isinstance(said.get("method"), dict):
        said["method"] = f"NewtonSchulz(coefficients={len(said['method']['coefficients'])} rows)"
    words = [f"{key}={value if key == 'method' and '(' in str(value) else repr(value)}" for key, value in said.items()]
    return f"`{made.optimizer.__name__}({', '.join(words)})`"


def table(rows: list[dict[str, Any]]) -> str:
    head = ["`htmuon.like(...)`", "version read", "ours", "difference", "update there", "update here", "convolutions"]
    body = []
    for row in rows:
        name = row["row"]
        needed = "".join(f", {key}={value!r}" for key, value in NEEDED.get(name, {}).items())
        rate = {"lr": RATE} if "learning_rate" in PEERS[name].arguments else {}
        made = htmuon.like(name, **rate, **NEEDED.get(name, {}))
        source = " (reference step)" if row["reference"] else ""
        numbers = [f"{row['difference']:.0e}", f"{row['there']:.3g}", f"{row['here']:.3g}"]
        body.append(
            [f'`"{name}"{needed}`', f"{row['version']}{source}", ours(made), *numbers, PEERS[name].convolutions]
        )
    return markdown([head, *body])


def filled(text: str) -> str:
    """The page with the table of the stored measurements."""
    return fill(text, "like", f"\n{table(json.loads(RESULT.read_text()))}\n")


def main() -> None:
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    warnings.simplefilter("ignore")
    stored = {row["row"]: row for row in json.loads(RESULT.read_text())} if RESULT.exists() else {}
    for name in PEERS:
        cases = [case for case in CASES if case.row == name]
        by_formula = name not in stored or stored[name]["reference"]
        if any(installed(case) for case in cases) or (by_formula and any(case.make.module is None for case in cases)):
            stored[name] = measured(name)
            print(stored[name], flush=True)
        elif name not in stored:
            raise SystemExit(f"{name} must be installed to be measured for the first time; see above how")
    RESULT.write_text(json.dumps([stored[name] for name in PEERS], indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
