#!/usr/bin/env bash
# torch 2.14.1 (CPU): addmm in bfloat16 takes ten times as long for every beta that it has not met.
#
# torch.addmm(C, A, B, beta=x) in bfloat16, on a processor for which torch takes oneDNN, holds beta as a
# constant of a compiled kernel: a value that is new compiles one, in milliseconds, whatever the size of the matrices.
# With alpha, and in float32, a new value costs nothing. Coefficients that a schedule moves from step to step pay it
# at every step. Needs a processor with AVX-512, for which torch takes oneDNN.
#
# Seen, for 512 x 512 on one thread, median of 40: 0.45 ms with the same beta, 5.3 ms with new ones, 0.45 ms with new
# values of alpha (bfloat16).
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import statistics
import time

import torch

torch.set_num_threads(1)
print("torch", torch.__version__)


def milliseconds(run):
    run(0)
    taken = []
    for number in range(1, 41):
        start = time.perf_counter()
        run(number)
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


for dtype in (torch.float32, torch.bfloat16):
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    same = milliseconds(lambda number: torch.addmm(matrix, matrix, matrix, alpha=0.7, beta=0.3))
    alpha = milliseconds(lambda number: torch.addmm(matrix, matrix, matrix, alpha=0.7 + number / 100, beta=0.3))
    beta = milliseconds(lambda number: torch.addmm(matrix, matrix, matrix, alpha=0.7, beta=0.3 + number / 100))
    print(f"{dtype}: same values {same:.2f} ms, new alpha {alpha:.2f} ms, new beta {beta:.2f} ms")
    assert alpha < 2 * same
    assert (beta > 4 * same) == (dtype == torch.bfloat16)
PYTHON
