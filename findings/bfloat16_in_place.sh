#!/usr/bin/env bash
# torch 2.14.1 (CPU): an operation in place on bfloat16 may take four times the memory of the tensor.
#
# x.div_(scale) in bfloat16 allocates nothing if scale is bfloat16, or float32 without dims. If it is a float32 tensor of
# shape [1, 1], which divides every element by the same number, x is widened to float32 and the quotients are a second
# float32 tensor before they are rounded into x: what looks like no allocation takes two float32 copies.
#
# Seen, for x of 2,097,152 bytes: 0, 2 and 8,388,608 bytes allocated within the operation.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch.profiler import ProfilerActivity, profile

print("torch", torch.__version__)
x = torch.ones(1024, 1024, dtype=torch.bfloat16)
scales = {
    "bfloat16 [1, 1]": torch.full((1, 1), 2.0, dtype=torch.bfloat16),
    "float32 []": torch.tensor(2.0),
    "float32 [1, 1]": torch.full((1, 1), 2.0),
}
allocated = {}
for name, scale in scales.items():
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        x.div_(scale)
    memory = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated[name] = sum(max(0, event.nbytes()) for event in memory)
    print(f"x of {x.nbytes:,} bytes divided by {name}: {allocated[name]:,} bytes allocated")
assert allocated["bfloat16 [1, 1]"] < 1000
assert allocated["float32 []"] < 1000
assert allocated["float32 [1, 1]"] >= 4 * x.nbytes
PYTHON
