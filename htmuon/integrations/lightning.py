"""The Trainer of Lightning: spectra while it trains, and a search for a learning rate that keeps both in proportion."""

from typing import Any

from torch.optim import Optimizer

from htmuon._extras import require
from htmuon.analysis import SpectralMonitor

require("lightning", extra="lightning")

from lightning.pytorch import Callback, LightningModule, Trainer, callbacks  # noqa: E402 - after the look whether it is there


class MonitorCallback(Callback):
    """A `SpectralMonitor` that follows a Trainer's run, and its resumption from a checkpoint.

        Trainer(callbacks=[MonitorCallback(every=50, path="spectra.jsonl")])

    The file is complete up to each checkpoint. Of several processes the first has the monitor; of several optimizers
    the first is looked at.

    Args:
        settings: those of `htmuon.analysis.SpectralMonitor`: `every`, `path`, `cost`, `names`, `tensorboard`.

    Raises:
        TypeError: when training begins, as `SpectralMonitor`.
        ValueError: likewise; so if a new run finds the file of another.

    Example:
        >>> trainer = Trainer(callbacks=[MonitorCallback(every=50, path="spectra.jsonl")])  # doctest: +SKIP
    """

    def __init__(self, **settings: Any) -> None:
        self.monitor: SpectralMonitor | None = None
        self._settings = settings

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to listen, where the run stands."""
        self.teardown(trainer, pl_module, "fit")
        if trainer.is_global_zero:
            done = trainer.global_step or None
            self.monitor = SpectralMonitor(pl_module, trainer.optimizers[0], step=done, **self._settings)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the records before a checkpoint on the disk."""
        if self.monitor is not None:
            self.monitor.sync()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        if self.monitor is not None:
            self.monitor.close()


class LearningRateFinder(callbacks.LearningRateFinder):
    """Lightning's search for a learning rate, in which the rates of an optimizer's groups stay in proportion.

    Lightning's own gives all groups one rate, while it searches and afterwards. Here the rate that it tries is that of
    the first group, which holds the matrices; each other group has the share of it that it began with. Then
    `configure_optimizers` is called again, with the rate that was found in the attribute of the module: so write both
    rates by it, `lr=self.lr, adamw_lr=0.15 * self.lr`. Schedules begin there, too; under Lightning's own they return to
    the rate that they were made with.

    Its settings are those of `lightning.pytorch.callbacks.LearningRateFinder`.

    Example:
        >>> trainer = Trainer(callbacks=[LearningRateFinder(min_lr=1e-4, max_lr=0.3)])  # doctest: +SKIP
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and make optimizer and schedule for the rate that was found."""
        super().on_fit_start(trainer, pl_module)
        trainer.strategy.setup_optimizers(trainer)

    def lr_find(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and leave the rates in proportion."""
        (optimizer,) = trainer.optimizers
        # A warm-up may begin at zero.
        rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        shares = [rate / rates[0] for rate in rates]

        def in_proportion(optimizer: Optimizer, *_: Any) -> None:
            rate = optimizer.param_groups[0]["lr"]
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share

        hook = optimizer.register_step_pre_hook(in_proportion)
        try:
            super().lr_find(trainer, pl_module)
        finally:
            hook.remove()
        in_proportion(optimizer)
