"""How the spectra of weights evolve under Muon and under HTMuon, as a picture.

    python examples/monitor.py --steps 200 --out runs/monitor

Trains the same small network with both, each with a `SpectralMonitor`, whose records go to FOLDER/NAME.jsonl, and draws
the tail exponent alpha (Hill) and the stable rank of the hidden weights to FOLDER/spectra.png. It needs matplotlib
(`pip install ".[train]"`).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import htmuon
from htmuon.analysis import SpectralMonitor

QUANTITIES = {"alpha_hill": "alpha (Hill)", "stable_rank": "stable rank"}


def train(name: str, steps: int, every: int, path: Path) -> None:
    """Train with one optimizer of this library and leave the records of its spectra in a file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 16))
    teacher = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 16)).requires_grad_(False)
    optimizer = getattr(htmuon, name)(htmuon.param_groups(model), lr=0.02, adamw_lr=3e-3)
    monitor = SpectralMonitor(model, optimizer, every=every, path=path)
    for _ in range(steps):
        batch = torch.randn(256, 64)
        optimizer.zero_grad()
        F.mse_loss(model(batch), teacher(batch)).backward()
        optimizer.step()
    monitor.close()


def means(path: Path, quantity: str) -> dict[int, float]:
    """By step, the mean over the weights that have such a number."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    weights = [record for record in records if record.get("kind") == "weights" and record.get(quantity) is not None]
    steps = sorted({record["step"] for record in weights})
    return {step: fmean(record[quantity] for record in weights if record["step"] == step) for step in steps}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train both, draw, and return the path of the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="steps between records")
    parser.add_argument("--out", type=Path, default=Path("runs/monitor"))
    given = parser.parse_args(arguments)

    given.out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = dict(zip(QUANTITIES, figure.subplots(1, len(QUANTITIES)), strict=True))
    for name in ("Muon", "HTMuon"):
        path = given.out / f"{name}.jsonl"
        path.unlink(missing_ok=True)  # a file holds one run
        train(name, given.steps, given.every, path)
        for quantity, ax in axes.items():
            found = means(path, quantity)
            ax.plot(list(found), list(found.values()), marker="o", label=name)
    for quantity, ax in axes.items():
        ax.set(xlabel="step", ylabel=QUANTITIES[quantity])
        ax.legend()
    picture = given.out / "spectra.png"
    figure.savefig(picture, dpi=150)
    print(picture)
    return picture


if __name__ == "__main__":
    main()
