"""The Trainer of transformers, and those of TRL that are made of it: optimizer, spectra, both learning rates."""

from collections.abc import Callable
from typing import Any

from htmuon._extras import require
from htmuon.analysis import SpectralMonitor
from htmuon.optim import HTMuon

require("transformers", extra="transformers")

from transformers import (  # noqa: E402 - after the look whether it is there
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


def factory(optimizer: type[HTMuon]) -> Callable[[], Callable[..., HTMuon]]:
    """An optimizer of this library as `Trainer` makes its own: from the model that it trains, adapters included.

        Trainer(..., optimizer_cls_and_kwargs=(factory(htmuon.HTMuon), {"lr": 0.02, "adamw_lr": 3e-3}))

    The settings are those of `htmuon.HTMuon.for_model`. `learning_rate`, `weight_decay` and `optim` of
    `TrainingArguments` are not used; its schedule and warm-up are, on both rates.

    Args:
        optimizer: `htmuon.HTMuon`, `htmuon.Muon`, ...; any class of `htmuon.OPTIMIZERS`.

    Raises:
        TypeError: it is none; or, when training begins, as `for_model`, which asks for both rates.

    Example:
        >>> import torch, htmuon
        >>> made = factory(htmuon.HTMuon)()(torch.nn.Linear(4, 4), lr=0.02, adamw_lr=3e-3)
        >>> [group["lr"] for group in made.param_groups]
        [0.02, 0.003]
    """
    if not isinstance(optimizer, type) or not issubclass(optimizer, HTMuon):
        raise TypeError(f"optimizer must be a class of htmuon.OPTIMIZERS; got {optimizer!r}. Pass htmuon.HTMuon.")
    return lambda: optimizer.for_model


class MonitorCallback(TrainerCallback):
    """A `SpectralMonitor` that follows a Trainer's run, and its resumption from a checkpoint.

        Trainer(..., callbacks=[MonitorCallback(every=50, path="spectra.jsonl")])

    The file is complete up to each checkpoint. Of several processes the first has the monitor.

    Args:
        settings: those of `htmuon.analysis.SpectralMonitor`: `every`, `path`, `cost`, `names`, `tensorboard`.

    Raises:
        TypeError: when training begins, as `SpectralMonitor`.
        ValueError: likewise; so if a new run finds the file of another.

    Example:
        >>> MonitorCallback(every=50, path="spectra.jsonl").monitor is None  # until training begins
        True
    """

    def __init__(self, **settings: Any) -> None:
        self.monitor: SpectralMonitor | None = None
        self._settings = settings

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        """Start to listen, where the run stands."""
        self.on_train_end(args, state, control)
        if state.is_world_process_zero:
            done = state.global_step or None
            self.monitor = SpectralMonitor(parts["model"], parts["optimizer"], step=done, **self._settings)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Put the records before a checkpoint on the disk."""
        if self.monitor is not None:
            self.monitor.sync()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        """Stop listening."""
        if self.monitor is not None:
            self.monitor.close()


def log_rates(trainer: Trainer) -> None:
    """Log the learning rate of AdamW's parameters as `adamw_learning_rate`, where `learning_rate` is logged.

    Trainer logs the rate of the first group alone, which is that of the matrices. Both go to the history and to
    everything that `report_to` names.

    Args:
        trainer: before it trains.

    Example:
        >>> trainer = ...  # doctest: +SKIP
        >>> log_rates(trainer)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        {'loss': '1.786', 'learning_rate': '0.02', 'adamw_learning_rate': '0.003', 'epoch': '1'}
    """
    # In front of those that report: callbacks see the same logs one after the other.
    trainer.callback_handler.callbacks.insert(0, _Rates())


class _Rates(TrainerCallback):
    """The rate of AdamW as it was in the last step; the scheduler moves it before the step is logged."""

    def __init__(self) -> None:
        self._rate: float | None = None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any
    ) -> None:
        groups = parts["optimizer"].param_groups
        self._rate = next((float(group["lr"]) for group in groups if not group.get("use_muon", True)), None)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **parts: Any) -> None:
        if "learning_rate" in parts["logs"] and self._rate is not None:
            parts["logs"]["adamw_learning_rate"] = self._rate
            state.log_history[-1]["adamw_learning_rate"] = self._rate
