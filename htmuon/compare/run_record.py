"""What a finished run left in its folder, read for the summary and the figures."""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

from htmuon.analysis import Estimator, PowerLawFit, fit_power_law
from htmuon.analysis.record_log import Record, read_records
from htmuon.analysis.signal import OCTILES
from htmuon.analysis.spectral_records import RecordKind
from htmuon.routing.names import ModulePlace, module_places
from htmuon.training.run_config import RunConfig
from htmuon.training.run_folder import RunFolder
from htmuon.training.run_result import RunResult

SpectrumKind = Literal["weights", "initial_weights", "updates"]


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of a run."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class RunRecord:
    """One run that came to its end: it finished, diverged, or stopped because of gradients that are not finite.

    Attributes:
        folder: the run folder.
    """

    folder: Path

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return RunConfig.from_dict(json.loads((self.folder / "config.json").read_text(encoding="utf-8")))

    @cached_property
    def result(self) -> RunResult | None:
        """The measurements of the run; None if it stopped before it could be measured."""
        return RunFolder(self.folder).stored_result()

    @property
    def final_loss(self) -> float:
        """Loss on the data that judges, final weights, in nats per token; infinite if the run diverged or stopped."""
        result = self.result
        if result is None or result.diverged or not math.isfinite(result.final_loss):
            return math.inf
        return result.final_loss

    @cached_property
    def _metrics(self) -> list[dict[str, Any]]:
        return read_records(self.folder / "metrics.jsonl")

    def curve(self, kind: Literal["train", "evaluation"], quantity: str = "loss") -> Curve:
        """A logged quantity over the steps; values that are not finite are left out."""
        entries = [entry for entry in self._metrics if entry["kind"] == kind]
        finite = [(entry["step"], entry[quantity]) for entry in entries if _is_finite(entry[quantity])]
        return Curve([step for step, _ in finite], [float(value) for _, value in finite])

    @cached_property
    def _records(self) -> list[Record]:
        return read_records(RunFolder(self.folder).monitor)

    def evolution(self, kind: RecordKind, quantity: str, layer_type: str | None = None) -> Curve:
        """The mean over hidden matrices of what the monitor recorded, over the steps; empty where it did not.

        Args:
            kind: of the records.
            quantity: in them.
            layer_type: of the matrices; all of them if not given.
        """
        values: dict[int, list[float]] = defaultdict(list)
        names = {record["name"] for record in self._records}
        places = {} if layer_type is None else module_places(names)
        for record in self._records:
            wanted = layer_type is None or places[record["name"]].module_type == layer_type
            if record["kind"] == kind and wanted and _is_finite(record.get(quantity)):
                values[record["step"]].append(record[quantity])
        return Curve(list(values), [statistics.fmean(found) for found in values.values()])

    def signal(self) -> dict[str, list[float]]:
        """What gradients repeat of the momentum by eighths of its singular values, by matrix; a mean over the records.

        Records of the first tenth of the training are left out. Empty without a monitor, or where there is no momentum.
        """
        found: dict[str, list[list[float]]] = defaultdict(list)
        for record in self._records:
            shares = [record.get(f"signal_{octile}") for octile in range(1, OCTILES + 1)]
            if record["step"] > self.config.steps / 10 and all(map(_is_finite, shares)):
                found[record["name"]].append([float(share) for share in shares if share is not None])
        return {name: [statistics.fmean(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}

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

    @cached_property
    def places(self) -> dict[str, ModulePlace]:
        """Where each hidden matrix sits in the model, by parameter name."""
        return module_places(self.spectra["weights"])

    def weight_fits(self, estimator: Estimator, initial: bool = False) -> dict[str, PowerLawFit]:
        """Power-law fits of the hidden matrices by parameter name, made once."""
        key = estimator, initial
        if key not in self._fits:
            sigmas = self.spectra["initial_weights" if initial else "weights"]
            self._fits[key] = {
                name: fit_power_law(sigma.double().square(), estimator=estimator) for name, sigma in sigmas.items()
            }
        return self._fits[key]

    @cached_property
    def _fits(self) -> dict[tuple[Estimator, bool], dict[str, PowerLawFit]]:
        return {}


# Report runs by optimizer spec, in the order of the comparison.
Records = Mapping[str, Sequence[RunRecord]]


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
