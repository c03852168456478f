"""By how much a step raises the peak of a process' memory, beside `torch.optim.Muon`.

    python benchmarks/step_memory.py --json benchmarks/results/step_memory.json

Every candidate takes three steps in a process of its own. The growth is the highest resident memory within a step above
what was resident before it, as Linux counts it: workspaces of LAPACK and of the products are part of it. That of the
first step holds the momentum too, which is kept; that of the later ones is what a step needs for itself. The matrices
are one of 65,536 x 256, and those of the hidden layers of llama-60m.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from timing import conditions, write
from torch import nn

import htmuon
from htmuon.bench.shapes import model_matrices

BASELINE = "torch.optim.Muon"
CANDIDATES = {
    BASELINE: None,
    "muon:method=newton_schulz": (htmuon.Muon, {"method": "newton_schulz"}),
    "htmuon": (htmuon.HTMuon, {}),
    "htmuon:method=polynomial": (htmuon.HTMuon, {"method": "polynomial"}),
    "htmuon:method=eigh": (htmuon.HTMuon, {"method": "eigh"}),
}
STEPS = 3
# Freed memory goes back to the system at once, so that each step is charged with all that it takes.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def matrices(name: str) -> list[tuple[int, int]]:
    if name == "tall":
        return [(65536, 256)]
    return [(shape.rows, shape.columns) for shape in model_matrices(name).shapes for _ in range(shape.count)]


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at the highest since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def growth(candidate: str, shapes: list[tuple[int, int]]) -> tuple[int, int]:
    """Of the first step, and the largest of the later ones."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    if candidate == BASELINE:
        optimizer = torch.optim.Muon(weights, lr=0.02)
    else:
        kind, settings = CANDIDATES[candidate]
        small = kind([nn.Parameter(torch.eye(8))], lr=0.02, **settings)
        small.param_groups[0]["params"][0].grad = torch.eye(8)
        small.step()  # what is imported and fitted once is not of a step
        optimizer = kind(weights, lr=0.02, **settings)
    grown = []
    for _ in range(STEPS):
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest is counted anew
        optimizer.step()
        grown.append(memory("VmHWM") - before)
    return grown[0], max(grown[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", nargs="*", default=["tall", "llama-60m"], help="tall, or a language recipe")
    parser.add_argument("--json", type=Path, help="where to store the results")
    parser.add_argument("--candidate", choices=CANDIDATES, help="only this one, in this process: prints bytes")
    arguments = parser.parse_args()
    if arguments.candidate is not None:
        print(*growth(arguments.candidate, matrices(arguments.matrices[0])))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in arguments.matrices:
        found[name] = {}
        for candidate in CANDIDATES:
            command = [sys.executable, __file__, "--matrices", name, "--candidate", candidate]
            environment = {**os.environ, **ENVIRONMENT}
            printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            row = dict(zip(("first", "later"), map(int, printed.split()), strict=True))
            baseline = found[name].get(BASELINE, row)
            row |= {f"{step} ratio": row[step] / baseline[step] for step in ("first", "later")}
            found[name][candidate] = row
            sizes = [f"{step} {row[step] / 1e6:7.1f} MB {row[f'{step} ratio']:5.2f}x" for step in ("first", "later")]
            print(f"{name:10} {candidate:28} {'   '.join(sizes)}", flush=True)
    write(arguments.json, {**conditions(), "threads": 1, "growth_bytes": found})


if __name__ == "__main__":
    main()
