#!/usr/bin/env bash
# lightning 2.6.6: a parameter that is unfrozen while it equals one of the optimizer in value is never trained.
#
# Its finetuning callbacks leave out of the new parameter group what the optimizer holds already, but they compare the
# values (torch.equal), not the objects. Everything initialised with ones or zeros (norms, biases, adapters, gates) is alike
# wherever the shapes agree. The warning says that those parameters "already exist within another group" and advises a
# filter by requires_grad, which is what is used here.
#
# Seen, of a backbone with three blocks, each with a LayerNorm as initialised:
#     BackboneFinetuning from epoch 0, a LayerNorm in the head: none of the three trained, all with gradients
#     an own BaseFinetuning that unfreezes block by block in epoch 1: two of the three not trained
#     the same with the norms moved apart by 0.001: all trained, no warning
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check lightning==2.6.6 torch==2.14.1 numpy==2.3.5
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import lightning
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import nn

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)) for _ in range(3)]
        self.backbone = nn.Sequential(nn.Linear(8, 16), *blocks)
        self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))

    def training_step(self, batch, _):
        return nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class BlockByBlock(BaseFinetuning):
    """From epoch 1 on the whole backbone, with a smaller learning rate the deeper the block."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            for depth, block in enumerate(reversed(pl_module.backbone)):
                self.unfreeze_and_add_param_group(block, optimizer, lr=0.05 / 2**depth)


def trained(callback, nudge):
    """The parameters that 4 epochs left as they were, and whether the package warned."""
    torch.manual_seed(0)
    model = Model()
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.LayerNorm)]
    with torch.no_grad():
        for i, norm in enumerate(norms):
            norm.weight += (i + 1) * nudge
            norm.bias += (i + 1) * nudge
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 4))
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=16))
    assert all(p.requires_grad and p.grad.norm() > 1e-4 for p in model.parameters()), "unfrozen, with a gradient"
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == [name for name, p in model.named_parameters() if id(p) not in held]
    return still, any("already exist within another group" in str(warning.message) for warning in caught)


print("lightning", lightning.__version__, "torch", torch.__version__)
names = [f"backbone.{i}.0.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
for make, expected in (
    (lambda: BackboneFinetuning(unfreeze_backbone_at_epoch=0), names),
    (BlockByBlock, names[:4]),
):
    for nudge in (0.0, 0.001):
        still, warned = trained(make(), nudge)
        print(f"{type(make()).__name__}, norms apart by {nudge}: never trained {still}, warned {warned}")
        assert (still, warned) == ((expected, True) if nudge == 0 else ([], False))
PYTHON
