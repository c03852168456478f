"""HTMuon in a loop of accelerate: mixed precision, accumulated gradients, a checkpoint.

    python examples/accelerate_loop.py --steps 100 --out runs/accelerate
    accelerate launch examples/accelerate_loop.py

It needs accelerate (`pip install accelerate`). Nothing in it is about this library but the line that makes the
optimizer.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import htmuon


def examples(count: int = 512) -> TensorDataset:
    """Points and what a network that nobody knows makes of them."""
    teacher = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).requires_grad_(False)
    points = torch.randn(count, 16)
    return TensorDataset(points, teacher(points).argmax(1))


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, store, and return the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/accelerate"))
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))
    optimizer = htmuon.HTMuon.for_model(model, lr=0.02, adamw_lr=3e-3)
    # accelerate moves a schedule once for each process.
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=given.steps * accelerator.num_processes)
    loader = DataLoader(examples(), batch_size=32, shuffle=True)
    model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)

    step = 0
    while step < given.steps:
        for points, classes in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(points), classes)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            step += accelerator.sync_gradients
            if step == given.steps:
                break
        accelerator.print(f"step {step:4d}  loss {loss.item():.4f}")
    accelerator.save_state(str(given.out))
    return loss.item()


if __name__ == "__main__":
    main()
