"""What the matrices of a checkpoint have in common: alpha by estimator and module type, and what has no fit."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from htmuon.analysis import Estimator
from htmuon.checkpoints.analysis_result import SIGNIFICANT, Analysis, CheckpointAnalysis, Row, difference
from htmuon.reporting.tables import sample_spread
from htmuon.routing.names import EMBEDDING, HEAD


@dataclass(frozen=True, kw_only=True)
class AlphaSummary:
    """Alpha over matrices, by one estimator.

    Attributes:
        fitted: number of matrices that have an alpha.
        mean: over these; NaN without any.
        median: likewise.
        spread: sample standard deviation; None for fewer than two.
        failed: number of matrices without an alpha, by reason.
    """

    fitted: int
    mean: float
    median: float
    spread: float | None
    failed: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """A number of matrices.

    Attributes:
        matrices: how many.
        parameters: their elements.
        alpha: by estimator.
        stable_rank: mean over the matrices that have one; NaN without any.
        alpha_weighted: likewise.
        spikes: mean number of eigenvalues beyond the edge of the noise bulk.
    """

    matrices: int
    parameters: int
    alpha: Mapping[Estimator, AlphaSummary]
    stable_rank: float
    alpha_weighted: float
    spikes: float


def summarize(rows: Sequence[Row], estimators: Sequence[Estimator]) -> GroupSummary:
    """The summary of some rows."""
    measured = [row.analysis for row in rows if row.analysis is not None and row.analysis.status == "ok"]
    return GroupSummary(
        matrices=len(rows),
        parameters=sum(math.prod(row.stored.shape) for row in rows),
        alpha={estimator: _alpha(rows, estimator) for estimator in estimators},
        stable_rank=_mean(analysis.stable_rank for analysis in measured),
        alpha_weighted=_mean(analysis.alpha_weighted for analysis in measured),
        spikes=_mean(analysis.spikes for analysis in measured if analysis.spikes is not None),
    )


def by_type(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by module type, in the order of `module_types`."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.place.module_type, []).append(row)
    return dict(sorted(groups.items(), key=lambda group: group[0] in (EMBEDDING, HEAD)))


def module_types(analysis: Analysis) -> list[str]:
    """The module types of all checkpoints: hidden ones in the order of their first matrix, then embedding and head."""
    return list(by_type([row for checkpoint in analysis.checkpoints for row in checkpoint.rows]))


def hidden(rows: Iterable[Row]) -> list[Row]:
    """The rows that are neither embedding nor head."""
    return [row for row in rows if row.place.module_type not in (EMBEDDING, HEAD)]


def differences(analysis: Analysis, estimator: Estimator) -> list[float]:
    """Alpha of the first checkpoint minus that of the second, for each matrix that has both."""
    found = (difference(rows, estimator) for rows in analysis.pairs().values())
    return [value for value in found if value is not None]


def sentences(analysis: Analysis) -> list[str]:
    """What to know first: counts, alpha by estimator, failures, and the differences of two checkpoints."""
    lines = []
    for checkpoint in analysis.checkpoints:
        lines += _about(checkpoint, analysis)
    for estimator in analysis.estimators if analysis.compared else ():
        lines.append(_compared(differences(analysis, estimator), estimator))
    return lines


def reasons(analysis: Analysis) -> list[str]:
    """What the words in place of numbers mean."""
    found: dict[str, str] = {}
    for row in (row for checkpoint in analysis.checkpoints for row in checkpoint.rows):
        for estimator in analysis.estimators:
            fit = row.fit(estimator)
            if row.alpha(estimator) is None:
                found[row.message if fit is None else fit.message] = row.fit_status(estimator)
    return [f"{status}: {message}." for message, status in found.items()]


def _about(checkpoint: CheckpointAnalysis, analysis: Analysis) -> list[str]:
    estimators = analysis.estimators
    everything = summarize(checkpoint.rows, estimators)
    note = f" ({checkpoint.note})" if checkpoint.note else ""
    left_out = [f"{checkpoint.skipped} vectors and other tensors skipped"] if checkpoint.skipped else []
    left_out += [f"{checkpoint.excluded} matrices left out by patterns"] if checkpoint.excluded else []
    lines = [
        f"{checkpoint.path}{note}: {_count(everything.matrices, 'matrix', 'matrices')} with "
        f"{everything.parameters:,} parameters{''.join('; ' + part for part in left_out)}."
    ]
    of_hidden = summarize(hidden(checkpoint.rows), estimators)
    for name in estimators:
        lines.append(_alpha_sentence(name, everything.alpha[name], of_hidden.alpha[name]))
        if analysis.samples:
            lines.append(_ruled_out(checkpoint.rows, name, analysis.samples))
        if analysis.alternatives:
            lines.append(_better_laws(checkpoint.rows, name))
    if math.isfinite(everything.alpha_weighted):
        lines.append(f"alpha_weighted: mean {everything.alpha_weighted:.2f}.")
    lines += _randomized(checkpoint.rows)
    return lines


def _alpha_sentence(estimator: Estimator, alpha: AlphaSummary, of_hidden: AlphaSummary) -> str:
    total = alpha.fitted + sum(alpha.failed.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in alpha.failed.items())
    failed = f", no fit for {sum(alpha.failed.values())} ({reasons})" if reasons else ""
    if not alpha.fitted:
        return f"alpha ({estimator}): none of {total} matrices could be fitted ({reasons})."
    spread = "" if alpha.spread is None else f" ± {alpha.spread:.2f}"
    without = "" if of_hidden.fitted in (0, alpha.fitted) else f"; {of_hidden.mean:.2f} without embedding and head"
    return (
        f"alpha ({estimator}): mean {alpha.mean:.2f}{spread}, median {alpha.median:.2f}{without}; "
        f"{alpha.fitted} of {total} matrices fitted{failed}."
    )


def _ruled_out(rows: Sequence[Row], estimator: Estimator, samples: int) -> str:
    values = [value for value in (row.p_value(estimator) for row in rows) if value is not None]
    out = sum(value < SIGNIFICANT for value in values)
    return (
        f"p-values ({estimator}): a power law is ruled out (p < {SIGNIFICANT}, {samples} synthetic spectra) for {out} "
        f"of {len(values)} fits."
    )


def _better_laws(rows: Sequence[Row], estimator: Estimator) -> str:
    better = Counter(law.replace("_", " ") for law in (row.better_law(estimator) for row in rows) if law is not None)
    compared = sum(estimator in row.comparisons for row in rows)
    return (
        f"Other laws ({estimator}), of {compared} tails: "
        + "".join(
            f"{count} {'is' if count == 1 else 'are'} better described by a {law}, " for law, count in better.items()
        )
        + f"{compared - better.total()} by none (p < {SIGNIFICANT})."
    )


def _randomized(rows: Sequence[Row]) -> list[str]:
    """What the permuted copies have in place of the structure of the weights, where they were made."""
    measured = [row.analysis for row in rows if row.analysis is not None and row.analysis.status == "ok"]
    copies = [(analysis, analysis.randomized) for analysis in measured if analysis.randomized is not None]
    if not copies:
        return []
    ranks, others = _mean(a.stable_rank for a, _ in copies), _mean(copy.stable_rank for _, copy in copies)
    spikes, noise = (_mean(a.spikes for a in group if a.spikes is not None) for group in zip(*copies, strict=True))
    return [
        f"With permuted entries the mean stable rank is {others:.1f} in place of {ranks:.1f}, the mean number of "
        f"spikes {noise:.1f} in place of {spikes:.1f}."
    ]


def _compared(values: Sequence[float], estimator: Estimator) -> str:
    if not values:
        return f"alpha ({estimator}): no matrix was fitted in both."
    spread = sample_spread(values)
    lower = sum(value < 0 for value in values)
    return (
        f"alpha ({estimator}), first minus second: mean {statistics.fmean(values):+.2f}"
        f"{'' if spread is None else f' ± {spread:.2f}'}, median {statistics.median(values):+.2f}, over "
        f"{_count(len(values), 'matrix', 'matrices')} fitted in both; lower (heavier tail) in the first for {lower}."
    )


def _alpha(rows: Sequence[Row], estimator: Estimator) -> AlphaSummary:
    alphas = [alpha for alpha in (row.alpha(estimator) for row in rows) if alpha is not None]
    return AlphaSummary(
        fitted=len(alphas),
        mean=_mean(alphas),
        median=statistics.median(alphas) if alphas else math.nan,
        spread=sample_spread(alphas),
        failed=dict(Counter(row.fit_status(estimator) for row in rows if row.alpha(estimator) is None)),
    )


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else math.nan


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
