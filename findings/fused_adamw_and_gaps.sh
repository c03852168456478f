#!/usr/bin/env bash
# torch 2.14.1 (CPU): AdamW(fused=True) steps on what lies between the elements of a parameter.
#
# A parameter that is a view with gaps, the first 4 of 8 columns, is updated as if its 24 elements were the first 24 of
# the memory: half of them stay as they were, and 12 numbers that belong to somebody else are changed, silently. With
# fused=False the same parameter is updated right.
#
# Seen: columns 0-3 moved in rows 0-2 alone; columns 4-7 moved in rows 0-2.
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
moved = {}
for fused in (False, True):
    whole = torch.zeros(6, 8)
    parameter = torch.nn.Parameter(whole[:, :4])
    parameter.grad = torch.ones(6, 4)
    torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0, fused=fused).step()
    moved[fused] = whole != 0
    print(f"fused={fused}: moved\n{moved[fused].int()}")
assert moved[False][:, :4].all(), "the plain step moves the whole parameter"
assert not moved[False][:, 4:].any(), "and nothing else"
assert moved[True][:3].all(), "the fused step moves the first three rows, the columns of others among them"
assert not moved[True][3:].any(), "and not the rest of the parameter"
PYTHON
