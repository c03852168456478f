"""Training a recipe, in a folder from which a killed run goes on as if nothing had happened."""

import importlib.metadata
import math
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htmuon.analysis.hidden import LastUpdate, hidden_matrices
from htmuon.analysis.monitor import SpectralMonitor
from htmuon.recipes.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from htmuon.recipes.config import RunConfig
from htmuon.recipes.device import autocast, current, pick_device, resolve_precision
from htmuon.recipes.files import new_file, write_json, write_tensors
from htmuon.recipes.llm.batches import mix_seed
from htmuon.recipes.llm.corpus import fingerprint, read_files
from htmuon.recipes.llm.task import LanguageModelling, build_model
from htmuon.recipes.llm.tokens import prepare_tokens
from htmuon.recipes.memory import optimizer_state_bytes, peak_memory_bytes, reset_peak_memory
from htmuon.recipes.metrics import MetricsLog
from htmuon.recipes.observer import Observer, SilentObserver
from htmuon.recipes.optimizers import build_optimizer
from htmuon.recipes.result import RunResult
from htmuon.recipes.run_folder import RunFolder
from htmuon.recipes.schedule import keep_initial_lr, lr_factor, scale_lr
from htmuon.recipes.sinks import Sinks, check_sinks, open_sinks
from htmuon.recipes.spectra import run_spectra
from htmuon.recipes.timing import CudaTimer, HostTimer


class TrainingStoppedError(RuntimeError):
    """A run that cannot go on: too many of its gradients were not finite."""


def train(
    config: RunConfig,
    folder: str | os.PathLike[str],
    observer: Observer | None = None,
    *,
    cache: Path | None = None,
) -> RunResult:
    """Train in `folder`: start, go on from the last good checkpoint, or return the result of a finished run.

    On the CPU, and with the same number of threads, a run that was killed at any moment and started again ends with the
    bits of one that was not. The folder then holds `config.json`, `metrics.jsonl`, `model.safetensors`,
    `spectra.safetensors` and `result.json`, and with `config.monitor_every` the `spectra.jsonl` of a `SpectralMonitor`;
    its checkpoints are removed at the end.

    Args:
        config: all settings.
        folder: new, empty, or that of a run with the same settings.
        observer: told what happens.
        cache: the folder where tokenized text is kept for many runs; the one that `folder` is in if not given.

    Raises:
        ValueError: a setting, the data or the folder is not usable; nothing was changed in the folder.
        TrainingStoppedError: `config.max_skipped_steps` steps had gradients that are not finite.
        ImportError: the libraries of the `train` extra are missing.
    """
    observer = observer or SilentObserver()
    home = RunFolder(Path(folder))
    home.check(config)
    check_sinks(config)
    files = read_files(config.data.path)
    text_id = fingerprint(files, config.data)
    result = home.stored_result()
    if result is not None:
        _check_text(home, config, result.data_fingerprint, text_id)
        home.remove_checkpoints()  # there are some if the run was killed between its result and this
        return result

    device = pick_device(config.device)
    model = build_model(config).to(device)
    spec = config.optimizer
    rates = {"lr": spec.lr, "adamw_lr": spec.adamw_lr, "weight_decay": spec.weight_decay}
    optimizer = build_optimizer(spec.name, model, **rates, steps=config.steps)
    keep_initial_lr(optimizer)
    root = home.path.absolute().parent if cache is None else cache
    try:
        text = prepare_tokens(files, config.data, root, observer.on_message)
    except OSError as error:
        raise ValueError(
            f"{root} must be a folder that can be written, for the tokenized text; got: {error}."
        ) from error
    task = LanguageModelling(config, text, device)
    # A step may draw random numbers from a seed of its own; the caller's stream is not touched.
    devices = [device] if device.type == "cuda" else []
    with current(device), torch.random.fork_rng(devices=devices), home.opened(config):
        result = Training(config, task, model, optimizer, home, observer, text_id).run()
    observer.on_finish(result)
    return result


def _check_text(home: RunFolder, config: RunConfig, stored: str, given: str) -> None:
    if stored != given:
        raise ValueError(
            f"the text at {config.data.path!r} changed since the run in {home.path} was started; "
            "choose a new folder, or restore the text."
        )


class Training:
    """One run, from its first or its last stored step to its result.

    Args:
        config: all settings.
        task: the data and the loss.
        model: with its initial weights, on the device.
        optimizer: over the parameters of `model`.
        home: the run's folder, locked.
        observer: told what happens.
        text_id: the fingerprint of the data.
    """

    def __init__(
        self,
        config: RunConfig,
        task: LanguageModelling,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        home: RunFolder,
        observer: Observer,
        text_id: str,
    ) -> None:
        self.config, self.task, self.model, self.optimizer = config, task, model, optimizer
        self.home, self.observer, self.text_id = home, observer, text_id
        self.device = next(model.parameters()).device
        self.precision = resolve_precision(config.precision, self.device)
        self.timer = CudaTimer() if self.device.type == "cuda" else HostTimer()
        self.monitor: SpectralMonitor | None = None
        self.losses: list[Tensor] = []
        self.skipped_steps = 0

    def run(self) -> RunResult:
        """Train to the end and write the result."""
        reset_peak_memory(self.device)
        first = self._restore()
        self.observer.on_start(self.config, first)
        with (
            open_sinks(self.config, self.home.path, first, self.observer.on_message) as sinks,
            MetricsLog(self.home.metrics, last_step=first, also=sinks.write) as log,
            self._monitor(first, sinks) as self.monitor,
        ):
            held_out_loss = math.nan
            for step in range(first, self.config.steps):
                done = step + 1
                last = done == self.config.steps
                if last:
                    update = LastUpdate(self.optimizer, hidden_matrices(self.model))
                self._step(step)
                if last or done % self.config.log_interval == 0:
                    self._log(done, log)
                faulty = self.skipped_steps >= self.config.max_skipped_steps
                if last or faulty or done % self.config.eval_interval == 0:
                    held_out_loss = self._evaluate(done, log)
                    # Steps that left a model no better than chance diverged; bad gradients of another are a fault.
                    lost = held_out_loss >= self.task.chance_loss and self.skipped_steps < done
                    if not math.isfinite(held_out_loss) or (faulty and lost):
                        if self.losses:
                            self._log(done, log)
                        return self._finish(done, held_out_loss, log, None)
                if faulty:
                    self._stop(done)
                # The last step has no checkpoint: a run that is killed after it repeats it, for its update.
                if not last and done % self.config.checkpoint_interval == 0:
                    self._save(done, log)
            return self._finish(self.config.steps, held_out_loss, log, update)

    def _monitor(self, first: int, sinks: Sinks) -> AbstractContextManager[SpectralMonitor | None]:
        every = self.config.monitor_every
        if every is None:
            return nullcontext()
        # Not attached: its records are no part of the time of the optimizer, which its hooks would be.
        return SpectralMonitor(
            self.model,
            self.optimizer,
            every=every,
            path=self.home.monitor,
            tensorboard=sinks if sinks else None,
            step=first,
            attach=False,
        )

    def _step(self, step: int) -> None:
        """One optimizer step, a function of the weights, the optimizer's state, the seed and the step's number."""
        config = self.config
        torch.manual_seed(mix_seed(config.seed, step))
        if self.monitor is not None:
            self.monitor.before_step()
        self.timer.mark()
        total = torch.zeros((), device=self.device)
        for index in range(config.accumulation):
            with autocast(self.precision, self.device):
                loss = self.task.training_loss(self.model, step * config.accumulation + index) / config.accumulation
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        scale_lr(self.optimizer, self._factor(step))
        self.timer.mark()
        self.optimizer.step()
        self.timer.mark()
        if self.monitor is not None:
            self.monitor.after_step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)

    def _factor(self, step: int) -> float:
        config = self.config
        fractions = {"warmup_fraction": config.warmup_fraction, "final_fraction": config.final_lr_fraction}
        return lr_factor(step, steps=config.steps, **fractions)

    def _log(self, done: int, log: MetricsLog) -> None:
        """Write a line; here, and not at every step, the host waits for the device."""
        loss = float(torch.stack(self.losses).mean())
        self.losses = []
        seconds, optimizer_seconds = self.timer.medians()
        record = {
            "kind": "train",
            "step": done,
            "loss": loss,
            "lr": self.config.optimizer.lr * self._factor(done - 1),
            "seconds_per_step": seconds,
            "optimizer_seconds": optimizer_seconds,
            "skipped_steps": self._count_skipped_steps(done),
            "tokens": done * self.config.accumulation * self.task.tokens_per_batch,
        }
        power = self.optimizer.param_groups[0].get("power")
        if power is not None:
            record["power"] = power
        log.write(record)
        self.observer.on_step(done, loss, seconds)

    def _count_skipped_steps(self, done: int) -> int:
        """Read the optimizer's counter, and say so if it grew."""
        skipped = int(self.optimizer.skipped_steps)  # type: ignore[attr-defined]
        if skipped > self.skipped_steps:
            self.observer.on_message(f"{skipped} steps skipped by step {done}: their gradients were not finite.")
        self.skipped_steps = skipped
        return skipped

    def _stop(self, done: int) -> None:
        raise TrainingStoppedError(
            f"training must have fewer than {self.config.max_skipped_steps} steps (max_skipped_steps) with gradients "
            f"that are not finite; {self.skipped_steps} of the first {done} steps of {self.home.path} had some and "
            "were skipped. Use a smaller learning rate or max_grad_norm, and look at the data."
        )

    def _evaluate(self, done: int, log: MetricsLog) -> float:
        self.model.eval()
        with autocast(self.precision, self.device):
            loss = self.task.held_out_loss(self.model)
        self.model.train()
        log.write({"kind": "evaluation", "step": done, "loss": loss, "documents": self.config.evaluate_on})
        self.observer.on_evaluation(done, loss)
        return loss

    def _save(self, done: int, log: MetricsLog) -> None:
        log.sync()
        if self.monitor is not None:
            self.monitor.sync()
        progress = {
            "text": self.text_id,
            "threads": torch.get_num_threads(),
            "losses": [float(loss) for loss in self.losses],
            "skipped_steps": self.skipped_steps,
        }
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_checkpoint(self.home.checkpoints, Checkpoint(step=done, progress=progress, **state))

    def _restore(self) -> int:
        """Load the last good checkpoint, if there is one; the number of steps done."""
        checkpoint = load_checkpoint(self.home.checkpoints, self.device, self.observer.on_message)
        if checkpoint is None:
            return 0
        progress = checkpoint.progress
        _check_text(self.home, self.config, progress["text"], self.text_id)
        if progress["threads"] != torch.get_num_threads():
            self.observer.on_message(
                f"the run used {progress['threads']} threads and goes on with {torch.get_num_threads()}: "
                "its numbers can differ in the last digits from those of a run without a break."
            )
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.losses = [torch.tensor(loss, device=self.device) for loss in progress["losses"]]
        self.skipped_steps = progress["skipped_steps"]
        return checkpoint.step

    def _finish(self, done: int, loss: float, log: MetricsLog, update: LastUpdate | None) -> RunResult:
        """Write the weights, the spectra and, last of all, the result; a run without `update` diverged."""
        with new_file(self.home.weights) as new:
            write_tensors(new, self.model.state_dict())
        result = RunResult(final_loss=loss, steps=done, diverged=update is None, **self._measurements(done, log))
        if update is not None:
            with new_file(self.home.spectra) as new:
                write_tensors(new, run_spectra(build_model(self.config), self.model, update))
        log.sync()
        write_json(self.home.result, result.to_dict())
        self.home.remove_checkpoints()
        return result

    def _measurements(self, done: int, log: MetricsLog) -> dict[str, Any]:
        config = self.config
        libraries = ("htmuon", "torch", "transformers", "tokenizers", "safetensors")
        return {
            "documents": config.evaluate_on,
            "tokens": done * config.accumulation * self.task.tokens_per_batch,
            "seconds_per_step": log.median("seconds_per_step"),
            "optimizer_seconds_per_step": log.median("optimizer_seconds"),
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "optimizer_state_bytes": optimizer_state_bytes(self.optimizer),
            "skipped_steps": self.skipped_steps,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "hidden_parameters": sum(matrix.parameter.numel() for matrix in hidden_matrices(self.model)),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in libraries},
            },
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "optimizer": config.optimizer.name,
            "lr": config.optimizer.lr,
            "adamw_lr": config.optimizer.adamw_lr,
            "weight_decay": config.optimizer.weight_decay,
            "seed": config.seed,
            "data_fingerprint": self.text_id,
        }
