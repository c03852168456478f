"""The table of a comparison: one row of measured numbers for each optimizer."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from htmuon._files import finite
from htmuon.analysis import Estimator
from htmuon.compare.baseline_choice import choose_baseline
from htmuon.compare.equal_budget import paces
from htmuon.compare.paired import PairedLosses, paired_differences
from htmuon.compare.run_record import Curve, Records, RunRecord
from htmuon.reporting.tables import sample_spread
from htmuon.training.run_config import DataSplit

_DERIVED = ("perplexity", "accuracy", "accuracy_spread", "optimizer_share", "diverged")


@dataclass(frozen=True, kw_only=True)
class OptimizerSummary(PairedLosses):
    """Measurements of one optimizer over its report runs; lists go by seed.

    Attributes:
        spec: the optimizer as given, such as "htmuon:power=0.25".
        baseline: the spec of the optimizer that it is compared with; its own for the baseline.
        lr: tuned learning rate of the matrix parameters (of all parameters for AdamW).
        adamw_lr: learning rate of the other parameters.
        seeds: seeds of the runs.
        losses: final losses on `split` in nats per token (image); infinite where the run diverged or stopped.
        differences: losses minus those of the baseline with the same seed; empty where there is none.
        seconds_per_step: the pace of `equal_budget.paces`; NaN if no run was measured.
        optimizer_seconds_per_step: the part of it spent in the optimizer, median over the runs that were measured.
        optimizer_state_bytes: size of the optimizer's state; None if no run was measured.
        peak_memory_bytes: largest over the runs; None where it was not measured.
        alpha_ks: mean over matrices and seeds of the power-law exponent of the final weights, KS estimator.
        alpha_hill: the same, median Hill estimator.
        steps_to_baseline: first step at which the mean loss is at most the baseline's final one, by linear
            interpolation between evaluations; None if it never is.
        tokens_to_baseline: tokens (images) seen by then.
        skipped_steps: steps skipped for a gradient that was not finite, over all runs.
        accuracies: final accuracies on held-out images, from 0 to 1, of the runs that were measured; empty for text.
        split: the data that judges: "test", or the part that is held back for a confirmation.
    """

    spec: str
    baseline: str
    lr: float
    adamw_lr: float
    seeds: tuple[int, ...]
    losses: tuple[float, ...]
    differences: tuple[float, ...]
    seconds_per_step: float
    optimizer_seconds_per_step: float
    optimizer_state_bytes: int | None
    peak_memory_bytes: int | None
    alpha_ks: float
    alpha_hill: float
    steps_to_baseline: float | None
    tokens_to_baseline: float | None
    skipped_steps: int
    accuracies: tuple[float, ...] = ()
    split: DataSplit = "test"

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def accuracy(self) -> float | None:
        """Mean accuracy over the seeds; None for a task without classes."""
        return statistics.fmean(self.accuracies) if self.accuracies else None

    @property
    def accuracy_spread(self) -> float | None:
        """Sample standard deviation of the accuracy over the seeds; None for a single run."""
        return sample_spread(self.accuracies)

    @property
    def quality(self) -> str:
        """The loss in the words of the task: perplexity or accuracy."""
        if self.accuracy is None:
            return f"perplexity {self.perplexity:.2f}"
        return f"accuracy {100 * self.accuracy:.2f} %"

    @property
    def optimizer_share(self) -> float:
        """Part of the step time spent in the optimizer, between 0 and 1."""
        return self.optimizer_seconds_per_step / self.seconds_per_step

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return sum(not math.isfinite(loss) for loss in self.losses)


def summarize(records: Records, baseline: str = "") -> list[OptimizerSummary]:
    """Summaries of the optimizers that have report runs.

    Args:
        records: the runs.
        baseline: the spec that the others are compared with; "" chooses it as `choose_baseline` does.
    """
    baseline = choose_baseline(list(records), baseline)
    pace = paces(records)
    return [
        _summarize_one(spec, runs, baseline, records[baseline], pace.get(spec, math.nan))
        for spec, runs in records.items()
        if runs
    ]


def baseline_of(summaries: Sequence[OptimizerSummary]) -> OptimizerSummary | None:
    """The summary of the baseline; None as long as it has no runs."""
    return next((summary for summary in summaries if summary.spec == summary.baseline), None)


def _summarize_one(
    spec: str, runs: Sequence[RunRecord], baseline: str, baseline_runs: Sequence[RunRecord], pace: float
) -> OptimizerSummary:
    results = [run.result for run in runs if run.result is not None]
    target = statistics.fmean(run.final_loss for run in baseline_runs) if baseline_runs else math.nan
    losses = tuple(run.final_loss for run in runs)
    comparable = spec != baseline and all(map(math.isfinite, losses))
    steps = first_crossing(mean_curve([run.curve("evaluation") for run in runs]), target) if comparable else None
    config = runs[0].config
    peaks = [result.peak_memory_bytes for result in results if result.peak_memory_bytes]
    return OptimizerSummary(
        spec=spec,
        baseline=baseline,
        lr=config.optimizer.lr,
        adamw_lr=config.optimizer.adamw_lr,
        seeds=tuple(run.config.seed for run in runs),
        losses=losses,
        differences=() if spec == baseline else paired_differences(_by_seed(runs), _by_seed(baseline_runs)),
        seconds_per_step=pace,
        optimizer_seconds_per_step=_median([result.optimizer_seconds_per_step for result in results]),
        optimizer_state_bytes=results[0].optimizer_state_bytes if results else None,
        peak_memory_bytes=max(peaks, default=None),
        alpha_ks=mean_alpha(runs, "ks"),
        alpha_hill=mean_alpha(runs, "hill"),
        steps_to_baseline=steps,
        tokens_to_baseline=None if steps is None else steps * config.tokens_per_step,
        skipped_steps=sum(result.skipped_steps for result in results),
        accuracies=tuple(result.accuracy for result in results if result.accuracy is not None),
        split=config.split,
    )


def _by_seed(runs: Sequence[RunRecord]) -> dict[int, float]:
    return {run.config.seed: run.final_loss for run in runs}


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def mean_alpha(runs: Iterable[RunRecord], estimator: Estimator) -> float:
    """Mean exponent over the hidden matrices of all runs; NaN where nothing could be fitted."""
    alphas = [fit.alpha for run in runs for fit in run.weight_fits(estimator).values() if fit.ok]
    return statistics.fmean(alphas) if alphas else math.nan


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over runs at the steps that all of them have."""
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    common = sorted(set.intersection(*map(set, tables))) if tables else []
    return Curve(common, [statistics.fmean(table[step] for table in tables) for step in common])


def first_crossing(curve: Curve, target: float) -> float | None:
    """The step at which a curve first comes down to `target`, interpolated linearly.

    Example:
        >>> first_crossing(Curve([0, 100, 200], [5.0, 4.0, 3.0]), 3.5)
        150.0
    """
    if not math.isfinite(target):
        return None
    before: tuple[int, float] | None = None
    for step, value in zip(curve.steps, curve.values, strict=True):
        if value <= target:
            if before is None:
                return float(step)
            return before[0] + (step - before[0]) * (before[1] - target) / (before[1] - value)
        before = (step, value)
    return None


def summary_to_csv(summaries: Sequence[OptimizerSummary]) -> str:
    """The text of summary.csv: one line for each optimizer; lists joined by spaces, empty where there is no number."""
    text = io.StringIO()
    rows = [summary_to_dict(summary) for summary in summaries]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: " ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        writer.writerow(cells)
    return text.getvalue()


def summary_to_dict(summary: OptimizerSummary) -> dict[str, Any]:
    """All numbers of a summary, the derived ones too, as plain values; None where there is no finite number."""
    derived = {name: getattr(summary, name) for name in _DERIVED}
    values = {**asdict(summary), **summary.statistics(), **derived}
    plain = finite({key: list(value) if isinstance(value, tuple) else value for key, value in values.items()})
    assert isinstance(plain, dict)
    return plain
