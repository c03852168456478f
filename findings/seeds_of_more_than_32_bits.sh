#!/usr/bin/env bash
# torch 2.14.1 (CPU): a generator takes a seed of 64 bits, gives it back whole, and draws by its lower 32 bits alone.
#
# torch.Generator().manual_seed(seed + (step << 32)), meant as a stream for each step of each run, is the same stream in
# every step: batches that are drawn so are one batch, on which the training loss falls as if the model were learning.
# So are runs whose seeds are hashes that agree in the lower half. initial_seed() returns the whole number, so that nothing seems lost; torch.manual_seed does
# likewise. Seeds that differ in a lower bit give other streams.
#
# Seen: seeds 0, 1 << 32 and 5 << 32 draw 44 239 933 760 below 1000; seed 1 draws 845 139 124 368; initial_seed() of 5 << 32
# is 21474836480.
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


def drawn(seed):
    """The first numbers of a generator with this seed, and the seed that it says it has."""
    generator = torch.Generator().manual_seed(seed)
    assert generator.initial_seed() == seed
    return torch.randint(1000, (4,), generator=generator).tolist()


found = {seed: drawn(seed) for seed in (0, 1, 1 << 32, (1 << 32) + 1, 5 << 32)}
for seed, numbers in found.items():
    print(f"seed {seed}: {numbers}")
assert found[0] == found[1 << 32] == found[5 << 32]
assert found[1] == found[(1 << 32) + 1] != found[0]
torch.manual_seed(0)
first = torch.rand(3)
torch.manual_seed(1 << 40)
assert torch.equal(torch.rand(3), first)
PYTHON
