"""Training a recipe, in a folder from which a killed run resumes as if nothing had happened."""

import os
from contextlib import nullcontext
from pathlib import Path

import torch

from htmuon._device import current, resolve_precision
from htmuon.baselines.specs import build_optimizer, parse_spec
from htmuon.optim import OPTIMIZERS
from htmuon.training.launch import device_of_process, opened, rank_of_process
from htmuon.training.loop import TrainingLoop
from htmuon.training.parallel import Parallel, main_process_first
from htmuon.training.resumable import keep_initial_lr
from htmuon.training.run_config import RunConfig
from htmuon.training.run_folder import RunFolder
from htmuon.training.run_result import Observer, RunResult
from htmuon.training.sinks import check_sinks


def train(
    config: RunConfig,
    folder: str | os.PathLike[str],
    observer: Observer | None = None,
    *,
    cache: Path | None = None,
    side_by_side: int = 1,
) -> RunResult:
    """Train in `folder`: start, resume from the last good checkpoint, or return the result of a finished run.

    On the CPU, and with the same number of threads, a run that was killed at any moment and started again ends with the
    bits of one that was not. The folder then holds `config.json`, `metrics.jsonl`, `model.safetensors`,
    `spectra.safetensors` and `result.json`, and with `config.monitor_every` the `spectra.jsonl` of a `SpectralMonitor`;
    its checkpoints are removed at the end.

    Under `torchrun` the processes share every batch and the work of the optimizer; the first one writes and talks, and
    a run resumes with another number of processes as well.

    Args:
        config: all settings.
        folder: new, empty, or that of a run with the same settings.
        observer: notified of the run's events.
        cache: the folder where tokenized text is kept for many runs; the one that `folder` is in if not given.
        side_by_side: how many runs the machine trains at the same time; it stands in the result.

    Raises:
        ValueError: a setting, the data or the folder is not usable; nothing was changed in the folder, unless it is of
            training data that is read during the run.
        OSError: data that is read during training cannot be reached any more; the run resumes from a checkpoint.
        TrainingStoppedError: `config.max_skipped_steps` steps had gradients that are not finite.
        ImportError: the libraries of the `train` extra, or for images those of `vision`, are missing.
    """
    observer = observer or Observer()
    home = RunFolder(Path(folder))
    home.check(config)
    check_sinks(config)
    source = config.data.open(config)
    result = home.stored_result()
    if result is not None:
        home.check_data(config, result.data_fingerprint, source.fingerprint)
        if rank_of_process() == 0:
            home.remove_checkpoints()  # there are some if the run was killed between its result and this
        return result

    device = device_of_process(config.device)
    # A step may draw random numbers from a seed of its own; the caller's stream is not touched.
    devices = [device] if device.type == "cuda" else []
    with opened(config, device) as parallel, current(device), torch.random.fork_rng(devices=devices):
        if config.parallel == "fsdp2" and parallel.size == 1:
            observer.on_message("One process: nothing is sharded. torchrun starts several.")
        model = parallel.wrap(source.build_model().to(device), resolve_precision(config.precision, device))
        optimizer = _optimizer(config, parallel, parallel.unwrap(model))
        keep_initial_lr(optimizer)
        cached = home.path.absolute().parent if cache is None else cache
        # What is costly to prepare is prepared by the first process and read by the others.
        with main_process_first(parallel):
            task = source.open(device, cached, observer.on_message)
        with home.opened(config) if parallel.rank == 0 else nullcontext():
            training = TrainingLoop(config, source, task, model, optimizer, parallel, home, observer, side_by_side)
            result = training.run()
    observer.on_finish(result)
    return result


def _optimizer(config: RunConfig, parallel: Parallel, model: torch.nn.Module) -> torch.optim.Optimizer:
    spec = config.optimizer
    name, _ = parse_spec(spec.name)
    if not parallel.whole and name not in OPTIMIZERS:
        raise ValueError(
            f"--parallel fsdp2 needs an optimizer that takes sharded parameters, one of {', '.join(OPTIMIZERS)}; got "
            f"{name!r}. Use --parallel ddp with it."
        )
    return build_optimizer(
        spec.name,
        model,
        lr=spec.lr,
        adamw_lr=spec.adamw_lr,
        weight_decay=spec.weight_decay,
        matrices=spec.matrices,
        steps=config.steps,
        process_group=parallel.process_group,
    )
