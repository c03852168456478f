"""What a finished run left in its folder, read for the summary and the figures."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

from htmuon.recipes.result import RunResult

SpectrumKind = Literal["weights", "initial_weights", "updates"]


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        folder: the run folder; it must hold result.json.
    """

    folder: Path

    @cached_property
    def result(self) -> RunResult:
        """The measurements of the run."""
        return RunResult.from_dict(json.loads((self.folder / "result.json").read_text(encoding="utf-8")))

    @property
    def final_loss(self) -> float:
        """Validation loss of the final weights in nats per token; infinite if the run diverged."""
        result = self.result
        return math.inf if result.diverged or not math.isfinite(result.final_loss) else result.final_loss

    @cached_property
    def _metrics(self) -> dict[str, dict[int, dict[str, Any]]]:
        # A run that was killed may have written a step twice: the last line of a step is the one that counts.
        metrics: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            metrics[entry["kind"]][entry["step"]] = entry
        return metrics

    def curve(self, kind: Literal["train", "evaluation"], quantity: str = "loss") -> Curve:
        """A logged quantity over the steps; values that are not finite are left out."""
        entries = sorted(self._metrics[kind].items())
        finite = [(step, entry[quantity]) for step, entry in entries if _is_finite(entry[quantity])]
        return Curve([step for step, _ in finite], [float(value) for _, value in finite])

    @cached_property
    def spectra(self) -> dict[SpectrumKind, dict[str, Tensor]]:
        """Singular values by kind and parameter name; empty for a run that diverged before they were taken."""
        spectra: dict[SpectrumKind, dict[str, Tensor]] = {"weights": {}, "initial_weights": {}, "updates": {}}
        path = self.folder / "spectra.safetensors"
        if path.exists():
            for key, sigma in sorted(load_file(path).items()):
                kind, _, name = key.partition("/")
                spectra[kind][name] = sigma  # type: ignore[index]  # the keys are those of SpectrumKind
        return spectra


# Finished report runs by optimizer spec, in the order of the comparison.
Records = Mapping[str, Sequence[RunRecord]]


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
