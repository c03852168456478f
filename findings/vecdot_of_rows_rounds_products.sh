#!/usr/bin/env bash
# torch 2.14.1 (CPU): torch.linalg.vecdot of rows is another computation than of the same vectors without a batch.
#
# Of two vectors it is a dot product, whose sum is kept in float32. With a batch dimension, of length one too, it makes the
# elementwise product as a tensor of the input's dtype and adds that up: each product is rounded to 16 bits, so in
# float16 a sum that is zero is NaN where single products overflow, and in bfloat16 the error is tens of times as large. The product takes memory
# as large as an input, and in float32 several times the time. torch.inner, `@` and einsum of the same numbers do none of this.
#
# Seen: float16, [300, 300] and [300, -300]: 0 as vectors, nan as rows of a batch of one; einsum 0. bfloat16, 4,096 numbers:
# relative errors 1.8e-06 and 7.8e-05. float32, 700,000 numbers: the profiler shows 2,800,000 bytes for aten::mul as rows, 4 bytes as vectors.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math

import torch
from torch.linalg import vecdot
from torch.profiler import ProfilerActivity, profile

print("torch", torch.__version__)


def ways(x, y):
    """The dot product of two vectors, as vectors, as a batch of one row, and by einsum."""
    row = (x.unsqueeze(0), y.unsqueeze(0))
    return vecdot(x, y).item(), vecdot(*row).item(), torch.einsum("bi,bi->b", *row).item()


x, y = (torch.tensor(values, dtype=torch.float16) for values in ([300.0, 300.0], [300.0, -300.0]))
vectors, rows, einsum = ways(x, y)
print("float16:", vectors, rows, einsum)
assert vectors == einsum == 0.0
assert math.isnan(rows)

torch.manual_seed(0)
x, y = (torch.randn(4096).to(torch.bfloat16) for _ in range(2))
exact = (x.double() @ y.double()).item()
scale = (x.double().norm() * y.double().norm()).item()
vectors, rows, einsum = (abs(found - exact) / scale for found in ways(x, y))
print(f"bfloat16, relative errors: {vectors:.1e} {rows:.1e} {einsum:.1e}")
assert rows > 10 * vectors
assert rows > 10 * einsum

x = torch.randn(700_000)
for name, vector in (("vectors", x), ("rows", x.unsqueeze(0))):
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as profiled:
        vecdot(vector, vector)
    held = {event.key: event.self_cpu_memory_usage for event in profiled.key_averages()}
    print(f"float32, {name}: bytes of aten::mul {held.get('aten::mul', 0)}, called {sorted(held)}")
    assert held.get("aten::mul", 0) == (0 if name == "vectors" else 4 * x.numel())
PYTHON
