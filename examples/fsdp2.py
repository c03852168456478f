"""HTMuon on a model that FSDP2 shards over the processes of torchrun, on CPUs (gloo) or GPUs (NCCL).

    torchrun --standalone --nproc-per-node 2 examples/fsdp2.py --steps 20

The optimizer is made after the model is sharded, by the same two lines as on one device. Each rank holds a slice of
every weight and of its momentum; a matrix is put together at one rank for its update.
"""

import argparse
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import htmuon


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on every rank; the first one prints the mean loss of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args(arguments)

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    mesh = init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))

    torch.manual_seed(0)  # the same weights on all ranks, before they are sharded
    layers = [nn.TransformerEncoderLayer(given.width, 4, 4 * given.width, 0.0, batch_first=True) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(32, given.width), *layers, nn.Linear(given.width, 32)).to(device)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02, adamw_lr=3e-3)

    torch.manual_seed(1 + dist.get_rank())  # batches of its own for each rank
    for step in range(1, given.steps + 1):
        tokens = torch.randint(0, 32, (16, 12), device=device)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / dist.get_world_size()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {step:3d}  loss {mean.item():.4f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
