"""HTMuon by name in timm: a vision transformer with learning rates that fall from its last layer to its first.

    python examples/timm_layer_decay.py --epochs 2

It needs timm (`pip install ".[timm]"`), and learns from the images inside the package. timm's own `train.py` takes the
same words once the optimizers are registered: docs/integrations.md has the line.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

import torch
from timm.models import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor
from torch.nn import functional as F

from htmuon.data.images.images import read_file, split_images
from htmuon.integrations.timm import register


def images(count: int) -> tuple[Tensor, Tensor]:
    """`[count, 1, 28, 28]` and their classes."""
    training = split_images(read_file(""), "").training[:count]
    return training.pixels / 255 - 0.5, training.labels


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, and return the mean loss of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--opt", default="htmuon")
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    register()
    model = VisionTransformer(img_size=28, patch_size=7, in_chans=1, num_classes=10, embed_dim=48, depth=3, num_heads=4)
    rates = {"lr": 0.02, "adamw_lr": 3e-3}
    optimizer = create_optimizer_v2(model, opt=given.opt, **rates, weight_decay=0.05, layer_decay=0.75)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=given.epochs, warmup_epochs=0)
    pixels, classes = images(given.images)
    for epoch in range(given.epochs):
        losses = []
        for chosen in torch.randperm(len(pixels)).split(50):
            loss = F.cross_entropy(model(pixels[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}  loss {fmean(losses):.4f}")
    return fmean(losses)


if __name__ == "__main__":
    main()
