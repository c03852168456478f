"""Lightning's Trainer takes the steps of a plain loop, resumes to the bit, and its callbacks do what they say."""

import json

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    LearningRateMonitor,
    ModelCheckpoint,
    WeightAveraging,
)
from lightning.pytorch.loggers import Logger

import htmuon
from htmuon.integrations.lightning import LearningRateFinder, MonitorCallback

LR, SHARE, BATCHES = 0.02, 0.15, 6

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        "The 'train_dataloader' does not have many workers",
        "The 'val_dataloader' does not have many workers",
        "You defined a `validation_step` but have no `val_dataloader`",
        "Checkpoint directory .* exists and is not empty",
        ".*isinstance.treespec, LeafSpec.",  # Lightning 2.6 under torch 2.14
    )
]


class Classifier(LightningModule):
    def __init__(self, scheduled=False):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))
        self.lr = LR
        self.scheduled = scheduled
        self.losses = []
        self.rates = []

    def loss(self, batch):
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def training_step(self, batch, index):
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.rates.append([group["lr"] for group in self.optimizers().param_groups])
        return loss

    def validation_step(self, batch, index):
        self.log("loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = htmuon.HTMuon.for_model(self, lr=self.lr, adamw_lr=SHARE * self.lr)
        if not self.scheduled:
            return optimizer
        return [optimizer], [{"scheduler": fading(optimizer), "interval": "step"}]


def fading(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 100)


def data():
    generator = torch.Generator().manual_seed(1)
    inputs, classes = torch.randn(8 * BATCHES, 8, generator=generator), torch.arange(8 * BATCHES) % 4
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, classes), batch_size=8)


def fitted(folder, *callbacks, scheduled=False, val=None, resumed=None, epochs=2, logger=False, **settings):
    module = Classifier(scheduled)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": logger}
    stored = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_checkpointing=stored,
        log_every_n_steps=1,
        **quiet,
        **settings,
    )
    trainer.fit(module, data(), val, ckpt_path=resumed, weights_only=True)
    return module, trainer


def equal(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_it_takes_the_steps_of_a_loop(tmp_path):
    module, _ = fitted(tmp_path, scheduled=True, gradient_clip_val=0.1)
    model = Classifier()
    optimizer = model.configure_optimizers()
    scheduler = fading(optimizer)
    losses = []
    for batch in [*data(), *data()]:
        optimizer.zero_grad()
        loss = model.loss(batch)
        losses.append(loss.item())
        loss.backward()
        # In the order of the groups, in which Lightning sums the norm.
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 0.1)
        optimizer.step()
        scheduler.step()
    assert module.losses == losses
    assert equal(module, model)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tmp_path):
    whole, halves = tmp_path / "whole.jsonl", tmp_path / "halves.jsonl"
    uninterrupted, _ = fitted(tmp_path, MonitorCallback(every=1, path=whole), scheduled=True)

    def halved(**settings):
        stored = ModelCheckpoint(dirpath=tmp_path / "stored", filename="{epoch}", save_top_k=-1)
        return fitted(tmp_path, MonitorCallback(every=1, path=halves), stored, scheduled=True, **settings)

    halved(max_steps=BATCHES + 2)  # two steps after the checkpoint
    resumed, _ = halved(resumed=str(tmp_path / "stored" / "epoch=0.ckpt"))
    assert equal(uninterrupted, resumed)
    assert whole.read_text() == halves.read_text()
    assert {json.loads(line)["step"] for line in whole.read_text().splitlines()} == set(range(2 * BATCHES + 1))


def test_the_monitor_changes_nothing_and_stops_with_the_run(tmp_path):
    watching = MonitorCallback(every=1)
    watched, trainer = fitted(tmp_path, watching)
    alone, _ = fitted(tmp_path)
    assert equal(watched, alone)
    assert {record["kind"] for record in watching.monitor.latest} == {"weights", "momentum", "updates"}
    trainer.optimizers[0].step()
    assert watching.monitor.step == 2 * BATCHES


def test_lightning_logs_the_rate_of_every_group(tmp_path):
    logged = []

    class Kept(Logger):
        name, version = "kept", 0

        def log_metrics(self, metrics, step=None):
            logged.append(metrics)

        def log_hyperparams(self, params, *args, **settings):
            pass

    fitted(tmp_path, LearningRateMonitor("step"), logger=Kept(), epochs=1)
    rates = {"lr-HTMuon/pg1": LR, "lr-HTMuon/pg2": SHARE * LR, "lr-HTMuon/pg3": SHARE * LR}
    assert logged[0] == pytest.approx(rates)


@pytest.mark.filterwarnings("ignore:.*`weights_only` was not set")
@pytest.mark.parametrize("scheduled", [False, True])
def test_the_search_for_a_rate_keeps_the_rates_in_proportion(tmp_path, scheduled):
    finder, watching = LearningRateFinder(min_lr=1e-4, max_lr=0.3, num_training_steps=18), MonitorCallback(every=100)
    module, _ = fitted(tmp_path, finder, watching, scheduled=scheduled, epochs=3)
    searched, trained = module.rates[:18], module.rates[18:]
    assert [first for first, *_ in searched] == pytest.approx(finder.optimal_lr.results["lr"])
    for rates in module.rates:
        assert rates == pytest.approx([rates[0], SHARE * rates[0], SHARE * rates[0]])
    assert module.lr == finder.optimal_lr.suggestion() != LR
    factors = [1 - step / 100 if scheduled else 1 for step in range(3 * BATCHES)]
    assert [first for first, *_ in trained] == pytest.approx([factor * module.lr for factor in factors])
    assert watching.monitor.step == 3 * BATCHES
    # The search leaves no trace: the run is that of a module that had this rate from the beginning.
    straight = Classifier(scheduled)
    straight.lr = module.lr
    Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(straight, data())
    assert equal(module, straight)


def test_a_backbone_is_unfrozen(tmp_path):
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.5)
    module, trainer = fitted(tmp_path, unfreezing, epochs=3)
    *before, others, matrices = trainer.optimizers[0].param_groups
    assert {p for group in before for p in group["params"]} == set(module.head.parameters())
    assert {p for group in (others, matrices) for p in group["params"]} == set(module.backbone.parameters())
    assert [p.ndim for p in others["params"]] == [1, 1]
    assert (others["use_muon"], matrices["use_muon"]) == (False, True)
    # A tenth of the head's rate, then half as much again in the next epoch: Lightning finds the last group alone.
    assert matrices["lr"] == pytest.approx(0.1 * LR * 1.5)
    assert others["lr"] == pytest.approx(0.1 * LR * SHARE)
    fresh = Classifier()
    assert not any(torch.equal(p, q) for p, q in zip(module.parameters(), fresh.parameters(), strict=True))


def test_weights_are_averaged(tmp_path):
    class Kept(WeightAveraging):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *rest):
            super().on_train_batch_end(trainer, pl_module, *rest)
            self.seen.append([p.detach().clone() for p in pl_module.parameters()])

    averaging = Kept()
    averaged, _ = fitted(tmp_path, averaging, val=data())
    alone, _ = fitted(tmp_path)
    # Validation with the average in the middle of the run disturbs nothing.
    assert all(torch.equal(p, q) for p, q in zip(averaging.seen[-1], alone.parameters(), strict=True))
    for p, *seen in zip(averaged.parameters(), *averaging.seen, strict=True):
        torch.testing.assert_close(p.detach(), torch.stack(seen).double().mean(0).float(), rtol=0, atol=1e-6)
