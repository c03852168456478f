"""One training run: the loop, what it logs, its checkpoints and its result."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from htmuon._device import autocast, reset_peak_memory, resolve_precision
from htmuon._files import new_file, write_json, write_tensors
from htmuon.analysis.hidden import LastUpdate, hidden_matrices
from htmuon.analysis.monitor import SpectralMonitor
from htmuon.analysis.spectral_records import run_spectra
from htmuon.training.metrics import CudaTimer, HostTimer, MetricsLog, NoLog
from htmuon.training.parallel import Parallel, forward_seed, main_process_first, share
from htmuon.training.resumable import lr_factor, mix_seed, scale_lr
from htmuon.training.run_config import RunConfig
from htmuon.training.run_folder import RunFolder
from htmuon.training.run_result import Observer, RunResult, measured_sizes, reported_settings, used_software
from htmuon.training.run_state import RunState, load_checkpoint, save_checkpoint
from htmuon.training.sinks import Sinks, open_sinks
from htmuon.training.task import Batch, Evaluation, Task, TaskSource


class TrainingStoppedError(RuntimeError):
    """A run that cannot continue: too many of its gradients were not finite."""


class TrainingLoop:
    """One run, from its first or its last stored step to its result.

    Args:
        config: all settings.
        source: the data as it is stored.
        task: the data and the loss.
        model: with its initial weights, on the device, as `parallel.wrap` returned it.
        optimizer: over the parameters of `model`.
        parallel: the processes of the run; the first one writes all files.
        home: the run's folder, locked.
        observer: notified of the run's events.
        side_by_side: how many runs the machine trains at a time.
    """

    def __init__(
        self,
        config: RunConfig,
        source: TaskSource,
        task: Task,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        home: RunFolder,
        observer: Observer,
        side_by_side: int,
    ) -> None:
        self.config, self.source, self.task = config, source, task
        self.model, self.optimizer, self.parallel = model, optimizer, parallel
        self.inner = parallel.unwrap(model)
        self.home, self.observer, self.side_by_side = home, observer, side_by_side
        self.average: AveragedModel | None = None
        if config.ema_decay is not None:
            averaging = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.inner, multi_avg_fn=averaging, use_buffers=True)
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
        with self._opened_log(first) as log:
            held_out = Evaluation(math.nan)
            update: LastUpdate | None = None
            for step in range(first, self.config.steps):
                done = step + 1
                last = done == self.config.steps
                if last and self.parallel.whole:
                    update = LastUpdate(self.optimizer, hidden_matrices(self.inner))
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
                        return self._finish(done, held_out, log, None, diverged=True)
                if faulty:
                    self._stop(done)
                # The last step has no checkpoint: a run that is killed after it repeats it, for its update.
                if not last and done % self.config.checkpoint_interval == 0:
                    self._save(done, log)
            return self._finish(self.config.steps, held_out, log, update, diverged=False)

    @contextmanager
    def _opened_log(self, first: int) -> Iterator[MetricsLog | NoLog]:
        """The log, the sinks and the monitor of the first process; the others have none."""
        if self.parallel.rank:
            yield NoLog()
            return
        with (
            open_sinks(self.config, self.home.path, first, self.observer.on_message) as sinks,
            MetricsLog(self.home.metrics, last_step=first, also=sinks.write) as log,
            self._monitor(first, sinks) as self.monitor,
        ):
            yield log

    def _monitor(self, first: int, sinks: Sinks) -> AbstractContextManager[SpectralMonitor | None]:
        every = self.config.monitor_every
        if every is None:
            return nullcontext()
        if not self.parallel.whole:
            self.observer.on_message("No spectra are recorded: a sharded parameter is no whole matrix.")
            return nullcontext()
        # Not attached: its records are no part of the time of the optimizer, which its hooks would be.
        return SpectralMonitor(
            self.inner,
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
        torch.manual_seed(forward_seed(mix_seed(config.seed, step), self.parallel))
        if self.monitor is not None:
            self.monitor.before_step()
        self.timer.mark()
        total = torch.zeros((), device=self.device)
        self.data_seconds.append(0.0)
        for index, (mine, weight) in enumerate(self._shares(step)):
            last = index + 1 == config.accumulation
            with nullcontext() if last else self.parallel.no_sync(self.model):
                with autocast(self.precision, self.device):
                    loss = self.task.training_loss(self.model, mine) * weight / config.accumulation
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
            self.average.update_parameters(self.inner)
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(total)

    def _shares(self, step: int) -> Iterator[tuple[Batch, float | Tensor]]:
        """What this process trains on in a step, each batch with its weight, so that every target counts equally."""
        numbers = range(step * self.config.accumulation, (step + 1) * self.config.accumulation)
        # Batches of images have equally many targets, and those of a whole step can take much memory.
        parts = [numbers] if self.config.data.targets_vary else [[number] for number in numbers]
        for part in parts:
            start = time.perf_counter()
            batches = [self.task.fetch(number) for number in part]
            self.data_seconds[-1] += time.perf_counter() - start
            for batch in batches:
                yield share(batch, self.parallel, batches)

    def _factor(self, step: int) -> float:
        config = self.config
        fractions = {"warmup_fraction": config.warmup_fraction, "final_fraction": config.final_lr_fraction}
        return lr_factor(step, steps=config.steps, **fractions)

    def _log(self, done: int, log: MetricsLog | NoLog) -> None:
        """Write a line; here, and not at every step, the host waits for the device."""
        loss = float(self.parallel.mean(torch.stack(self.losses).mean()))
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
            record["power"] = float(power)  # a schedule's is a tensor on an accelerator
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
        return self.inner if self.average is None else self.average.module

    def _evaluate(self, done: int, log: MetricsLog | NoLog) -> Evaluation:
        self.network.eval()
        with autocast(self.precision, self.device):
            found = self.parallel.agreed(self.task.evaluate(self.network))
        self.network.train()
        accuracy = {} if found.accuracy is None else {"accuracy": found.accuracy}
        entry = {"kind": "evaluation", "step": done, "loss": found.loss, **accuracy}
        log.write({**entry, "split": self.config.split})
        self.observer.on_evaluation(done, found.loss)
        return found

    def _save(self, done: int, log: MetricsLog | NoLog) -> None:
        model, optimizer = self.parallel.state(self.model, self.optimizer)
        losses = self.parallel.mean(torch.stack(self.losses)).tolist() if self.losses else []
        if self.parallel.rank:
            return
        log.sync()
        if self.monitor is not None:
            self.monitor.sync()
        progress = {
            "side_by_side": self.side_by_side,
            "data_fingerprint": self.source.fingerprint,
            "threads": torch.get_num_threads(),
            "losses": losses,
            "skipped_steps": self.skipped_steps,
            "data": self.task.state_dict(),
        }
        checkpoint = RunState(
            step=done,
            model=model,
            optimizer=optimizer,
            progress=progress,
            average=None if self.average is None else self.average.state_dict(),
        )
        save_checkpoint(self.home.checkpoints, checkpoint)

    def _restore(self) -> int:
        """Load the last good checkpoint, if there is one; the number of steps done."""
        with main_process_first(self.parallel):  # the first process removes what is damaged
            where = self.device if self.parallel.whole else torch.device("cpu")  # whole, before it is sliced
            checkpoint = load_checkpoint(self.home.checkpoints, where, self.observer.on_message)
        step = 0 if checkpoint is None else checkpoint.step
        if self.parallel.agreed(step) != step:
            raise ValueError(
                f"all processes must find the same checkpoint; the first one has another step than {step}, which is in "
                f"{self.home.path}. Put the run on a file system that all of them share."
            )
        if checkpoint is None:
            return 0
        progress = checkpoint.progress
        self.home.check_data(self.config, progress["data_fingerprint"], self.source.fingerprint)
        if progress["threads"] != torch.get_num_threads():
            self.observer.on_message(
                f"the run used {progress['threads']} threads and resumes with {torch.get_num_threads()}: "
                "its numbers can differ in the last digits from those of a run without a break."
            )
        self.parallel.load(self.model, self.optimizer, checkpoint.model, checkpoint.optimizer)
        if self.average is not None:
            assert checkpoint.average is not None
            self.average.load_state_dict(checkpoint.average)
        self.losses = [torch.tensor(loss, device=self.device) for loss in progress["losses"]]
        self.skipped_steps = progress["skipped_steps"]
        # Times of a step are those of the whole run; checkpoints of older versions have no number.
        self.side_by_side = max(self.side_by_side, progress.get("side_by_side", 1))
        if "data" in progress:  # checkpoints of older versions have none, and tasks that need none
            self.task.load_state_dict(progress["data"])
        return checkpoint.step

    def _finish(
        self,
        done: int,
        held_out: Evaluation,
        log: MetricsLog | NoLog,
        update: LastUpdate | None,
        *,
        diverged: bool,
    ) -> RunResult:
        """Write the weights, the spectra if there is an `update`, and, last of all, the result."""
        weights, _ = self.parallel.state(self.model, self.optimizer)
        result = None if self.parallel.rank else self._result(done, held_out, log, diverged)
        result = self.parallel.agreed(result)
        assert result is not None
        if self.parallel.rank:
            self.parallel.barrier()
            return result
        with new_file(self.home.weights) as new:
            write_tensors(new, weights if self.average is None else self.average.module.state_dict())
        if update is not None:
            with new_file(self.home.spectra) as new:
                write_tensors(new, run_spectra(self.source.build_model(), self.network, update))
        log.sync()
        write_json(self.home.result, result.to_dict())
        self.home.remove_checkpoints()
        self.parallel.barrier()
        return result

    def _result(self, done: int, held_out: Evaluation, log: MetricsLog | NoLog, diverged: bool) -> RunResult:
        return RunResult(
            final_loss=held_out.loss,
            accuracy=held_out.accuracy,
            steps=done,
            diverged=diverged,
            tokens=done * self.config.tokens_per_step,
            seconds_per_step=log.median("seconds_per_step"),
            optimizer_seconds_per_step=log.median("optimizer_seconds"),
            data_seconds_per_step=log.median("data_seconds"),
            skipped_steps=self.skipped_steps,
            unreadable_samples=self.task.unreadable_samples,
            side_by_side=self.side_by_side,
            precision=self.precision,
            **reported_settings(self.config),
            **measured_sizes(self.inner, self.optimizer),
            **used_software(self.source),
        )
