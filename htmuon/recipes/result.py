"""What a finished run measured."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from htmuon.recipes.config import HeldOut


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """The measurements of one finished run, as in `result.json`.

    Args:
        final_loss: mean loss in nats per token (image) of the held-out data after the last step; NaN if not finite.
        documents: the held-out documents (images) that `final_loss` is of.
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
    """

    final_loss: float
    documents: HeldOut
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
        needed = [field.name for field in fields if field.default is dataclasses.MISSING]
        later = [field.name for field in fields if field.default is not dataclasses.MISSING]
        known: dict[str, Any] = {name: math.nan if values[name] is None else values[name] for name in needed}
        return cls(**known, **{name: values[name] for name in later if name in values})
