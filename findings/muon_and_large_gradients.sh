#!/usr/bin/env bash
# torch 2.14.1: torch.optim.Muon stops without a word where a gradient is large.
#
# Its update does not depend on the scale of the gradient, which it divides by its norm. But the squares in that norm are
# summed in float32: entries of about 1e20 overflow them, the norm is infinite, and the update is exactly zero, with finite
# weights and no warning; training goes on with weight decay alone. (A loss scale that is not undone, summed losses.)
#
# Seen: an update of norm 0.05 up to 1e18, and 0.0 from 1e20 on.
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
torch.manual_seed(0)
direction = torch.randn(8, 8)
sizes = {}
for exponent in (0, 10, 18, 20, 25):
    weight = torch.nn.Parameter(torch.eye(8))
    weight.grad = direction * 10.0**exponent
    assert weight.grad.isfinite().all()
    torch.optim.Muon([weight], lr=0.02, weight_decay=0.0).step()
    sizes[exponent] = (weight.detach() - torch.eye(8)).norm().item()
    print(f"gradient entries of about 1e{exponent}: the weights moved by {sizes[exponent]:.4f}")
assert all(0.04 < sizes[exponent] < 0.07 for exponent in (0, 10, 18)), "the same step at every scale"
assert sizes[20] == sizes[25] == 0.0, "until there is none"
PYTHON
