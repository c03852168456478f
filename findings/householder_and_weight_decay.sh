#!/usr/bin/env bash
# torch 2.14.1: one step with weight decay turns a layer under parametrizations.orthogonal("householder") into zeros.
#
# The parametrization stores Householder vectors, and on the diagonal the signs of a triangular factor, 1 or -1, which it
# reads as int(). AdamW's weight decay makes 0.9999 of a 1, of which int() makes 0: after a single step the weight is a zero
# matrix. The other two maps, "matrix_exp" and "cayley", stay orthogonal.
#
# Seen: norm of the 6 x 6 weight 0.0 after one step (orthogonal: 2.449); matrix_exp and cayley orthogonal to 1e-6.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

print("torch", torch.__version__)
norms = {}
for name in ("householder", "matrix_exp", "cayley"):
    torch.manual_seed(0)
    layer = orthogonal(nn.Linear(6, 6, bias=False), orthogonal_map=name)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.1)
    layer(torch.randn(4, 6)).sum().backward()
    optimizer.step()
    weight = layer.weight.detach()
    norms[name] = weight.norm().item()
    error = (weight @ weight.mT - torch.eye(6)).abs().max().item()
    print(f"{name}: norm of the weight {norms[name]:.4f}, largest entry of W W^T - 1: {error:.1e}")
assert norms["householder"] == 0.0
assert all(abs(norms[name] - 6**0.5) < 1e-4 for name in ("matrix_exp", "cayley"))
PYTHON
