#!/usr/bin/env bash
# torch 2.14.1 (CPU): baddbmm in half precision forgets beta where alpha is 0.
#
# torch.baddbmm(C, A, B, alpha=0, beta=0.5) is C / 2. In bfloat16 and float16, on a processor for which torch takes
# oneDNN, a stack of matrices of 64 x 64 or more gives C itself, as if nobody had looked at beta. float32, and
# torch.addmm in every precision, give C / 2. A schedule of coefficients that passes through zero meets it. Needs a
# processor with AVX-512, for which torch takes oneDNN in half precision.
#
# Seen, as the largest entry of the result by that of C: 1.0 for bfloat16 and float16, 0.5 for float32; addmm 0.5.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

print("torch", torch.__version__)
stack = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
shares = {}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    c = stack.to(dtype)
    for name, result, added in (
        ("baddbmm", torch.baddbmm(c, c, c, alpha=0.0, beta=0.5), c),
        ("addmm", torch.addmm(c[0], c[0], c[0], alpha=0.0, beta=0.5), c[0]),
    ):
        shares[name, dtype] = round(float(result.abs().max() / added.abs().max()), 3)
        print(f"{name}, {dtype}: result is {shares[name, dtype]} times C, asked for 0.5")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    assert shares["addmm", dtype] == 0.5
assert shares["baddbmm", torch.float32] == 0.5
assert shares["baddbmm", torch.float16] == shares["baddbmm", torch.bfloat16] == 1.0
PYTHON
