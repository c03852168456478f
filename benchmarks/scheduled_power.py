"""What a step costs under a power schedule, beside one with a constant power.

    python benchmarks/scheduled_power.py --json benchmarks/results/scheduled_power.json

The power moves at every step, and is another one at each; both take the same matrices in the same rounds.
"""

import argparse
from pathlib import Path

import torch
from timing import conditions, ratios, side_by_side, write
from torch import nn

import htmuon
from htmuon.bench.shapes import model_matrices


def settings_of(rounds: int) -> dict[str, dict[str, object]]:
    """A constant power, and one that falls over all steps that are timed, the first one included."""
    falling = htmuon.power_schedule("logistic", start=0.5, end=0.125, total_steps=rounds + 1, midpoint=0.5, width=0.2)
    return {"constant": {"power": 0.125}, "logistic": {"power_schedule": falling}}


def optimizer_of(settings: dict[str, object], layers: int) -> htmuon.HTMuon:
    """Over the hidden matrices of llama-60m, with gradients."""
    torch.manual_seed(0)
    shapes = [(s.rows, s.columns) for s in model_matrices("llama-60m", layers).shapes for _ in range(s.count)]
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return htmuon.HTMuon(weights, lr=0.02, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="of llama-60m")
    parser.add_argument("--rounds", type=int, default=30, help="that are counted")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    optimizers = {
        name: optimizer_of(settings, arguments.layers) for name, settings in settings_of(arguments.rounds).items()
    }
    seconds = side_by_side({name: o.step for name, o in optimizers.items()}, arguments.rounds)
    found = ratios(seconds, "constant")
    print(f"logistic / constant: {found['logistic']:.3f}")
    write(arguments.json, {**conditions(), "matrices": f"llama-60m, {arguments.layers} layers", "ratios": found})


if __name__ == "__main__":
    main()
