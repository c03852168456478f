#!/usr/bin/env bash
# accelerate 1.15.0: on several CPU processes an fsdp_plugin is ignored without a word, and DDP trains instead.
#
# The plugin is looked at for the GPU-like kinds of process alone, and MULTI_CPU is not among them. Neither an error nor a
# warning tells; each process holds the whole model and the whole optimizer state, and a test on CPUs of what is to run with
# FSDP tests DDP. torch itself shards on CPUs: its fully_shard is called beside it, in the same processes.
#
# Seen: 2 processes, DistributedDataParallel, 280 of 280 numbers on each and no DTensor; 140 with fully_shard.
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check accelerate==1.15.0 torch==2.14.1 numpy==2.3.5
cd "$folder"
cat >ranks.py <<'PYTHON'
import logging
import warnings

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

records = []
handler = logging.Handler(logging.WARNING)
handler.emit = records.append
logging.getLogger().addHandler(handler)


def local_numbers(model):
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import accelerate

    caught.clear()
    plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
    total = sum(p.numel() for p in model.parameters())
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    accelerator.backward(model(torch.ones(2, 8)).square().sum())
    optimizer.step()
said = [str(warning.message) for warning in caught] + [record.getMessage() for record in records]

sharded = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))

held = local_numbers(model), local_numbers(sharded)
if accelerator.is_main_process:
    print("accelerate", accelerate.__version__, "torch", torch.__version__)
    print(f"{accelerator.distributed_type}, {accelerator.num_processes} processes: {type(model).__name__}, said {said}")
    print(f"numbers on one process, of {total}: {held[0]} with the plugin, {held[1]} with fully_shard")
assert accelerator.num_processes == 2
assert said == []
assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
assert not any(isinstance(p, DTensor) for p in model.parameters())
assert held[0] == total
assert all(isinstance(p, DTensor) for p in sharded.parameters())
assert held[1] == total // 2
accelerator.end_training()
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/torchrun" --standalone --nproc-per-node 2 ranks.py
