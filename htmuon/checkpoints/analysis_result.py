"""What an analysis found: a row for each matrix, and what all of a checkpoint have in common."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from htmuon.analysis import Estimator, MatrixAnalysis, PowerLawFit
from htmuon.analysis.alternatives import Alternative, LawComparison
from htmuon.analysis.bootstrap import GoodnessOfFit
from htmuon.checkpoints.stored_matrix import StoredMatrix
from htmuon.routing.names import ModulePlace

# Below this p-value a power law is ruled out, or another law is the better one (Clauset, Shalizi, Newman 2009).
SIGNIFICANT = 0.1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One matrix of a checkpoint.

    Attributes:
        stored: its name, shape and file.
        place: where it sits in the model.
        key: the name by which it is matched with the same matrix of another checkpoint.
        analysis: what was measured; None for numbers that are not the weights themselves.
        goodness: p-values of the fits, where they were asked for.
        comparisons: of the fits with other laws, where they were asked for.
    """

    stored: StoredMatrix
    place: ModulePlace
    key: str
    analysis: MatrixAnalysis | None
    goodness: Mapping[Estimator, GoodnessOfFit] = field(default_factory=dict)
    comparisons: Mapping[Estimator, Mapping[Alternative, LawComparison]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the matrix."""
        return self.stored.name

    @property
    def status(self) -> str:
        """`ok`, or why there are no numbers."""
        return self.stored.status if self.analysis is None else self.analysis.status

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return self.stored.message if self.analysis is None else self.analysis.message

    def fit(self, estimator: Estimator) -> PowerLawFit | None:
        """The power-law fit of one estimator; None where the matrix has a status instead."""
        return self.analysis.fits[estimator] if self.analysis is not None and self.analysis.status == "ok" else None

    def p_value(self, estimator: Estimator) -> float | None:
        """The p-value of a fit; None where there is none."""
        goodness = self.goodness.get(estimator)
        return goodness.p_value if goodness is not None and math.isfinite(goodness.p_value) else None

    def better_law(self, estimator: Estimator) -> str | None:
        """The law with the highest likelihood; None where the power law is not significantly worse than another.

        Significant is a p-value below 0.1 of the likelihood ratio.
        """
        better = {
            name: comparison.log_likelihood_ratio
            for name, comparison in self.comparisons.get(estimator, {}).items()
            if comparison.status == "ok" and comparison.log_likelihood_ratio < 0 and comparison.p_value < SIGNIFICANT
        }
        return min(better, key=lambda name: better[name]) if better else None

    def fit_status(self, estimator: Estimator) -> str:
        """`ok`, or why there is no alpha: the matrix's own reason before that of the fit."""
        fit = self.fit(estimator)
        return self.status if fit is None else fit.status

    def alpha(self, estimator: Estimator) -> float | None:
        """The exponent, or None where `fit_status` says why."""
        fit = self.fit(estimator)
        return fit.alpha if fit is not None and fit.ok else None


@dataclass(frozen=True, kw_only=True)
class CheckpointAnalysis:
    """The matrices of one checkpoint.

    Attributes:
        path: as it was given.
        note: which files that means, where there was a choice.
        rows: in natural order of their names.
        skipped: tensors that are no matrix.
        excluded: matrices that the patterns left out.
    """

    path: Path
    note: str
    rows: tuple[Row, ...]
    skipped: int
    excluded: int

    @property
    def by_key(self) -> Mapping[str, Row]:
        """The rows by the name by which they are matched."""
        return {row.key: row for row in self.rows}


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One checkpoint, or two side by side.

    Attributes:
        checkpoints: one or two; the second is what the first is compared with.
        estimators: the power-law fits that were made.
        samples: synthetic spectra for each p-value; 0 where there are none.
        alternatives: whether the fits were compared with other laws.
    """

    checkpoints: tuple[CheckpointAnalysis, ...]
    estimators: tuple[Estimator, ...]
    samples: int = 0
    alternatives: bool = False

    @property
    def compared(self) -> bool:
        """Whether there are two."""
        return len(self.checkpoints) > 1

    def pairs(self) -> dict[str, tuple[Row | None, ...]]:
        """The rows of each name, one for each checkpoint; None where a checkpoint has no such matrix."""
        tables = [checkpoint.by_key for checkpoint in self.checkpoints]
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: tuple(table.get(key) for table in tables) for key in keys}


def shapes_differ(rows: Sequence[Row | None]) -> bool:
    """Whether matrices of one name have several shapes: not the same matrix, whatever its name says."""
    return len({row.stored.shape for row in rows if row is not None}) > 1


def difference(rows: Sequence[Row | None], estimator: Estimator) -> float | None:
    """Alpha of the first checkpoint minus that of the second, or None where one has none, or their shapes differ."""
    if shapes_differ(rows):
        return None
    alphas = [None if row is None else row.alpha(estimator) for row in rows]
    if len(alphas) < 2 or alphas[0] is None or alphas[1] is None:
        return None
    return alphas[0] - alphas[1]
