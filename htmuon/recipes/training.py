"""One training run: the loop, what it logs, its checkpoints and its result."""

import math
import statistics
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from htmuon.analysis.hidden import LastUpdate, hidden_matrices
from htmuon.analysis.monitor import SpectralMonitor
from htmuon.recipes.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from htmuon.recipes.config import RunConfig
from htmuon.recipes.device import autocast, resolve_precision
from htmuon.recipes.files import new_file, write_json, write_tensors
from htmuon.recipes.measurements import measured_sizes, told_settings, used_software
from htmuon.recipes.memory import reset_peak_memory
from htmuon.recipes.metrics import MetricsLog
from htmuon.recipes.observer import Observer
from htmuon.recipes.result import RunResult
from htmuon.recipes.run_folder import RunFolder
from htmuon.recipes.schedule import lr_factor, scale_lr
from htmuon.recipes.seeds import mix_seed
from htmuon.recipes.sinks import Sinks, open_sinks
from htmuon.recipes.spectra import run_spectra
from htmuon.recipes.task import Evaluation, Task, TaskSource
from htmuon.recipes.timing import CudaTimer, HostTimer


class TrainingStoppedError(RuntimeError):
    """A run that cannot go on: too many of its gradients were not finite."""


class Training:
    """One run, from its first or its last stored step to its result.

    Args:
        config: all settings.
        source: the data as it is stored.
        task: the data and the loss.
        model: with its initial weights, on the device.
        optimizer: over the parameters of `model`.
        home: the run's folder, locked.
        observer: told what happens.
    """

    def __init__(
        self,
        config: RunConfig,
        source: TaskSource,
        task: Task,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        home: RunFolder,
        observer: Observer,
    ) -> None:
        self.config, self.source, self.task = config, source, task
        self.model, self.optimizer = model, optimizer
        self.home, self.observer = home, observer
        self.average: AveragedModel | None = None
        if config.ema_decay is not None:
            averaging = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
        self.device = next(model.parameters()).device
        self.precision = resolve_precision(config.precision, self.device)
        self.timer = CudaTimer() if self.device.type == "cuda" else HostTimer()
        self.monitor: SpectralMonitor | None = None
        self.losses: list[Tensor] = []
        self.data_seconds: list[float] = []
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
            held_out = Evaluation(math.nan)
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
                    held_out = self._evaluate(done, log)
                    # Steps that left a model no better than chance diverged; bad gradients of another are a fault.
                    lost = held_out.loss >= self.task.chance_loss and self.skipped_steps < done
                    if not math.isfinite(held_out.loss) or (faulty and lost):
                        if self.losses:
                            self._log(done, log)
                        return self._finish(done, held_out, log, None)
                if faulty:
                    self._stop(done)
                # The last step has no checkpoint: a run that is killed after it repeats it, for its update.
                if not last and done % self.config.checkpoint_interval == 0:
                    self._save(done, log)
            return self._finish(self.config.steps, held_out, log, update)

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
        waited = 0.0
        for index in range(config.accumulation):
            began = time.perf_counter()
            batch = self.task.fetch(step * config.accumulation + index)
            waited += time.perf_counter() - began
            with autocast(self.precision, self.device):
                loss = self.task.training_loss(self.model, batch) / config.accumulation
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
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)
        self.data_seconds.append(waited)

    def _factor(self, step: int) -> float:
        config = self.config
        fractions = {"warmup_fraction": config.warmup_fraction, "final_fraction": config.final_lr_fraction}
        return lr_factor(step, steps=config.steps, **fractions)

    def _log(self, done: int, log: MetricsLog) -> None:
        """Write a line; here, and not at every step, the host waits for the device."""
        loss = float(torch.stack(self.losses).mean())
        data_seconds = statistics.median(self.data_seconds)
        self.losses, self.data_seconds = [], []
        seconds, optimizer_seconds = self.timer.medians()
        record = {
            "kind": "train",
            "step": done,
            "loss": loss,
            "lr": self.config.optimizer.lr * self._factor(done - 1),
            "seconds_per_step": seconds,
            "optimizer_seconds": optimizer_seconds,
            "data_seconds": data_seconds,
            "skipped_steps": self._count_skipped_steps(done),
            "unreadable_samples": self.task.unreadable_samples,
            "tokens": done * self.config.tokens_per_step,
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

    @property
    def network(self) -> torch.nn.Module:
        """The network that is evaluated and stored: the averaged one if there is one."""
        return self.model if self.average is None else self.average.module

    def _evaluate(self, done: int, log: MetricsLog) -> Evaluation:
        self.network.eval()
        with autocast(self.precision, self.device):
            found = self.task.evaluate(self.network)
        self.network.train()
        accuracy = {} if found.accuracy is None else {"accuracy": found.accuracy}
        entry = {"kind": "evaluation", "step": done, "loss": found.loss, **accuracy}
        log.write({**entry, "documents": self.config.evaluate_on})
        self.observer.on_evaluation(done, found.loss)
        return found

    def _save(self, done: int, log: MetricsLog) -> None:
        log.sync()
        if self.monitor is not None:
            self.monitor.sync()
        progress = {
            "text": self.source.fingerprint,
            "threads": torch.get_num_threads(),
            "losses": [float(loss) for loss in self.losses],
            "skipped_steps": self.skipped_steps,
            "data": self.task.state_dict(),
        }
        checkpoint = Checkpoint(
            step=done,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            progress=progress,
            average=None if self.average is None else self.average.state_dict(),
        )
        save_checkpoint(self.home.checkpoints, checkpoint)

    def _restore(self) -> int:
        """Load the last good checkpoint, if there is one; the number of steps done."""
        checkpoint = load_checkpoint(self.home.checkpoints, self.device, self.observer.on_message)
        if checkpoint is None:
            return 0
        progress = checkpoint.progress
        self.home.check_data(self.config, progress["text"], self.source.fingerprint)
        if progress["threads"] != torch.get_num_threads():
            self.observer.on_message(
                f"the run used {progress['threads']} threads and goes on with {torch.get_num_threads()}: "
                "its numbers can differ in the last digits from those of a run without a break."
            )
        self.model.load_state_dict(checkpoint.model)
        if self.average is not None:
            assert checkpoint.average is not None
            self.average.load_state_dict(checkpoint.average)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.losses = [torch.tensor(loss, device=self.device) for loss in progress["losses"]]
        self.skipped_steps = progress["skipped_steps"]
        if "data" in progress:  # checkpoints of older versions have none, and tasks that need none
            self.task.load_state_dict(progress["data"])
        return checkpoint.step

    def _finish(self, done: int, held_out: Evaluation, log: MetricsLog, update: LastUpdate | None) -> RunResult:
        """Write the weights, the spectra and, last of all, the result; a run without `update` diverged."""
        with new_file(self.home.weights) as new:
            write_tensors(new, self.network.state_dict())
        result = RunResult(
            final_loss=held_out.loss,
            accuracy=held_out.accuracy,
            steps=done,
            diverged=update is None,
            tokens=done * self.config.tokens_per_step,
            seconds_per_step=log.median("seconds_per_step"),
            optimizer_seconds_per_step=log.median("optimizer_seconds"),
            data_seconds_per_step=log.median("data_seconds"),
            skipped_steps=self.skipped_steps,
            unreadable_samples=self.task.unreadable_samples,
            precision=self.precision,
            **told_settings(self.config),
            **measured_sizes(self.model, self.optimizer),
            **used_software(self.source),
        )
        if update is not None:
            with new_file(self.home.spectra) as new:
                write_tensors(new, run_spectra(self.source.build_model(), self.network, update))
        log.sync()
        write_json(self.home.result, result.to_dict())
        self.home.remove_checkpoints()
        return result
