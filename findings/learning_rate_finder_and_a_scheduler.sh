#!/usr/bin/env bash
# lightning 2.6.6: beside a LambdaLR the LearningRateFinder says "Learning rate set to ..." and the old one trains.
#
# The callback writes its suggestion into the optimizer, but not into the base_lrs that the scheduler has noted before it.
# Schedulers that compute from those (LambdaLR, and with it most warm-ups) bring back the old rate at their next step: after
# the first epoch, or after the first batch where they step per batch. Without a scheduler the rate stays. So it does with
# Tuner.lr_find before the fit, after which the optimizer and the scheduler are made anew from the attribute.
#
# Seen, from lr = 1e-5, "Learning rate set to 0.0562" each time, loss at the end of 5 epochs:
#     callback: no scheduler 0.28; LambdaLR per epoch 1.96, at 1e-5 from epoch 2 on; per step 3.40, at 1e-5 from batch 2 on
#     Tuner.lr_find: 0.28 in all three
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.14.1 numpy==2.3.5
cd "$folder"
TQDM_DISABLE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging
import re

import lightning
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn

said = []
for name in ("lightning.pytorch", "lightning.pytorch.tuner.lr_finder"):
    logging.getLogger(name).handlers.clear()
    logging.getLogger(name).propagate = False
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("lightning.pytorch.tuner.lr_finder").addHandler(handler)
logging.getLogger("lightning.pytorch.tuner.lr_finder").setLevel(logging.INFO)


class Model(lightning.LightningModule):
    def __init__(self, interval):
        super().__init__()
        self.lr = 1e-5
        self.interval = interval
        self.layer = nn.Linear(8, 4)
        self.rates, self.losses = [], []

    def training_step(self, batch, _):
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        if self.interval is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


print("lightning", lightning.__version__, "torch", torch.__version__)
found = {}
for way in ("callback", "tuner"):
    for interval in (None, "epoch", "step"):
        torch.manual_seed(0)
        model = Model(interval)
        inputs = 2 * torch.eye(8).repeat(40, 1)
        data = torch.utils.data.TensorDataset(inputs, inputs @ torch.randn(8, 4))
        loader = torch.utils.data.DataLoader(data, batch_size=16)
        trainer = lightning.Trainer(
            max_epochs=5,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LearningRateFinder(min_lr=1e-5, num_training_steps=60)] if way == "callback" else [],
        )
        if way == "tuner":
            Tuner(trainer).lr_find(model, loader, min_lr=1e-5, num_training=60)
        trainer.fit(model, loader)
        announced = [re.fullmatch("Learning rate set to (.+)", line) for line in said]
        announced = [float(match[1]) for match in announced if match]
        said.clear()
        assert announced == [model.lr], "said once, and the attribute agrees"
        rates, loss = model.rates[-5 * 20 :], sum(model.losses[-20:]) / 20
        found[way, interval] = loss
        print(
            f"{way}, scheduler per {interval}: set to {model.lr:.2e}; rates of batch 1 {rates[0]:.2e}, of batch 2"
            f" {rates[1]:.2e}, of epoch 2 {rates[20]:.2e}, at the end {rates[-1]:.2e}; last loss {loss:.4f}"
        )
        old = [i for i, rate in enumerate(rates) if rate == 1e-5]
        assert old == list(range({"epoch": 20, "step": 1}[interval] if way == "callback" and interval else 100, 100))
        assert all(rate == model.lr for i, rate in enumerate(rates) if i not in old)
        assert model.lr > 1e-3
assert found["callback", "step"] > found["callback", "epoch"] > 1
assert all(loss < 0.5 for (way, interval), loss in found.items() if way == "tuner" or interval is None)
PYTHON
