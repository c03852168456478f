"""What a run reports: its events while it trains, and what it measured when it is finished."""

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from typing import Any

import torch

import htmuon
from htmuon._device import optimizer_state_bytes, peak_memory_bytes
from htmuon.analysis.hidden import found_by_rules
from htmuon.training.run_config import DataSplit, RunConfig
from htmuon.training.task import TaskSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """The measurements of one finished run, as in `result.json`.

    Args:
        final_loss: mean loss in nats per token (image) of the held-out data after the last step; NaN if not finite.
        split: the held-out documents or images that `final_loss` is of.
        steps: optimizer steps done, skipped ones included.
        tokens: training tokens (images) seen.
        seconds_per_step: median seconds of a training step (evaluation and checkpoints not included).
        optimizer_seconds_per_step: median seconds of the optimizer's part of a step.
        data_seconds_per_step: median seconds in which the host waited for a step's training data.
        peak_memory_bytes: highest memory of the process (CPU) or of torch's allocator (CUDA) since the last start.
        optimizer_state_bytes: size of the optimizer's tensors.
        skipped_steps: steps skipped because of gradients that are not finite.
        parameters: number of parameters.
        hidden_parameters: those in hidden matrices, which the spectral optimizers update.
        versions: of Python and the libraries.
        device: where the run was trained.
        threads: CPU threads of torch.
        precision: of the forward and backward pass, "float32" or "bfloat16".
        optimizer: the optimizer's spec.
        lr: peak learning rate of the hidden matrices.
        adamw_lr: peak learning rate of the other parameters.
        weight_decay: decoupled weight decay.
        seed: of the run.
        diverged: the loss at an evaluation was not finite, or no better than chance when `max_skipped_steps` steps
            had been skipped; the run ended there and has no spectra.
        data_fingerprint: identifies the data.
        accuracy: share of the held-out images that are classified rightly, from 0 to 1; None for a run on text.
        unreadable_samples: samples that the run met and left out, because they are damaged or have no label.
        side_by_side: how many runs the machine trained at a time; with more than one the times are not those of one.
        rate_factors: of the learning rate, by the name of the matrix, as a rate rule has found them; empty without one.
        powers: of the matrices, by name, as a power rule has found them; empty without one.
    """

    final_loss: float
    split: DataSplit
    steps: int
    tokens: int
    seconds_per_step: float
    optimizer_seconds_per_step: float
    data_seconds_per_step: float
    peak_memory_bytes: int
    optimizer_state_bytes: int
    skipped_steps: int
    parameters: int
    hidden_parameters: int
    versions: dict[str, str]
    device: str
    threads: int
    precision: str
    optimizer: str
    lr: float
    adamw_lr: float
    weight_decay: float
    seed: int
    diverged: bool
    data_fingerprint: str
    accuracy: float | None = None
    unreadable_samples: int = 0
    side_by_side: int = 1
    rate_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    powers: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(final_loss)."""
        return math.inf if self.final_loss > 700 else math.exp(self.final_loss)

    @property
    def optimizer_share(self) -> float:
        """The optimizer's share of the time of a step, from 0 to 1."""
        return self.optimizer_seconds_per_step / self.seconds_per_step

    def to_dict(self) -> dict[str, Any]:
        """All measurements, the derived ones too, as plain values."""
        derived = {"optimizer_share": self.optimizer_share}
        if self.accuracy is None:
            derived["perplexity"] = self.perplexity
        return {**dataclasses.asdict(self), **derived}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunResult":
        """The inverse of `to_dict`; None (JSON's null) stands for a number that is not finite."""
        fields = dataclasses.fields(cls)
        needed = [field.name for field in fields if _has_no_default(field)]
        later = [field.name for field in fields if not _has_no_default(field)]
        known: dict[str, Any] = {name: math.nan if values[name] is None else values[name] for name in needed}
        return cls(**known, **{name: values[name] for name in later if name in values})


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class Observer:
    """Receives the events of a run and must not change it; this one ignores them, and is a base for others."""

    def on_start(self, run: RunConfig, first_step: int) -> None:
        """The run starts or resumes at `first_step` (the number of steps already done)."""

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        """`step` steps are done; mean training loss and median seconds per step since the last call (log_interval)."""

    def on_evaluation(self, step: int, loss: float) -> None:
        """The loss on the held-out documents after `step` steps."""

    def on_message(self, text: str) -> None:
        """Something that the user should read."""

    def on_finish(self, result: RunResult) -> None:
        """The run is finished and its files are written."""


def reported_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a result repeats, so that it can be read alone."""
    spec = config.optimizer
    return {
        "split": config.split,
        "optimizer": spec.name,
        "lr": spec.lr,
        "adamw_lr": spec.adamw_lr,
        "weight_decay": spec.weight_decay,
        "seed": config.seed,
    }


def measured_sizes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Numbers of parameters, bytes, and the device that they are on."""
    device = next(model.parameters()).device
    found = {name: found_by_rules(optimizer.state.get(p, {})) for name, p in model.named_parameters()}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "hidden_parameters": sum(r.parameter.numel() for r in htmuon.route(model).routes if r.view is not None),
        "optimizer_state_bytes": optimizer_state_bytes(optimizer),
        "rate_factors": {name: round(of["rate_factor"], 6) for name, of in found.items() if "rate_factor" in of},
        "powers": {name: round(of["power"], 6) for name, of in found.items() if "power" in of},
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def used_software(source: TaskSource) -> dict[str, Any]:
    """The versions of Python and the libraries, and the fingerprint of the data."""
    # The package itself may be a folder on the path, of which nothing is installed.
    versions = {"python": platform.python_version(), "htmuon": htmuon.__version__}
    versions |= {name: importlib.metadata.version(name) for name in ("torch", *source.libraries)}
    return {"versions": versions, "data_fingerprint": source.fingerprint}
