"""HTMuon in the Trainer of Lightning: a search for the learning rate, spectra, the rates of all groups in a CSV file.

    python examples/lightning_trainer.py --epochs 3 --out runs/lightning

It needs Lightning (`pip install ".[lightning]"`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import htmuon
from htmuon.integrations.lightning import LearningRateFinder, MonitorCallback


class Classifier(LightningModule):
    """Points of four classes, and a network that tells them apart."""

    def __init__(self, lr: float = 0.02) -> None:
        super().__init__()
        self.lr = lr
        self.network = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> htmuon.HTMuon:
        """Both rates by one number, for a search changes it."""
        return htmuon.HTMuon.for_model(self, lr=self.lr, adamw_lr=0.15 * self.lr)


def loader(count: int = 2048) -> DataLoader[tuple[Tensor, ...]]:
    """Points and what a network that nobody knows makes of them."""
    teacher = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).requires_grad_(False)
    points = torch.randn(count, 16)
    return DataLoader(TensorDataset(points, teacher(points).argmax(1)), batch_size=32, shuffle=True)


def main(arguments: Sequence[str] | None = None) -> float:
    """Search, train, and return the last loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--search-steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    callbacks = [
        LearningRateFinder(min_lr=1e-4, max_lr=0.3, num_training_steps=given.search_steps),
        MonitorCallback(every=20),
        LearningRateMonitor("step"),
    ]
    module = Classifier()
    trainer = Trainer(
        max_epochs=given.epochs,
        callbacks=callbacks,
        logger=CSVLogger(given.out),
        default_root_dir=given.out,
        log_every_n_steps=10,
    )
    trainer.fit(module, loader())
    loss = float(trainer.callback_metrics["loss"])
    print(f"learning rate {module.lr:.4f}, last loss {loss:.4f}")
    return loss


if __name__ == "__main__":
    main()
