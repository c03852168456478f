"""An analysis as files: CSV with a line for each matrix, JSON with everything."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import htmuon
from htmuon._files import finite, write_json, write_text
from htmuon.analysis import Estimator
from htmuon.analysis.alternatives import ALTERNATIVES
from htmuon.checkpoints.alpha_summary import by_type, differences, hidden, sentences, summarize
from htmuon.checkpoints.analysis_result import Analysis, CheckpointAnalysis, Row, difference


def write_analysis_json(path: Path, analysis: Analysis, command: str) -> None:
    """Write everything, whole or not at all; numbers that are not finite are null."""
    write_json(path, to_dict(analysis, command))


def write_analysis_csv(path: Path, analysis: Analysis) -> None:
    """Write a line for each matrix of each checkpoint, whole or not at all; cells without a number are empty."""
    text = io.StringIO()
    lines = [
        {"checkpoint": str(checkpoint.path), **flat_row(row, analysis)}
        for checkpoint in analysis.checkpoints
        for row in checkpoint.rows
    ]
    # A row without numbers has fewer columns.
    columns = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite(lines))
    write_text(path, text.getvalue())


def to_dict(analysis: Analysis, command: str) -> dict[str, Any]:
    """Everything about an analysis as plain values."""
    pairs = analysis.pairs() if analysis.compared else {}
    return {
        "command": command,
        "version": htmuon.__version__,
        "estimators": list(analysis.estimators),
        "summary": sentences(analysis),
        "checkpoints": [_checkpoint(checkpoint, analysis) for checkpoint in analysis.checkpoints],
        "differences": {
            name: {estimator: difference(rows, estimator) for estimator in analysis.estimators}
            for name, rows in pairs.items()
            if None not in rows
        },
        "alpha_differences": {estimator: differences(analysis, estimator) for estimator in analysis.estimators}
        if analysis.compared
        else {},
    }


def _checkpoint(checkpoint: CheckpointAnalysis, analysis: Analysis) -> dict[str, Any]:
    return {
        "path": str(checkpoint.path),
        "note": checkpoint.note,
        "skipped_tensors": checkpoint.skipped,
        "excluded_matrices": checkpoint.excluded,
        "all": asdict(summarize(checkpoint.rows, analysis.estimators)),
        "hidden": asdict(summarize(hidden(checkpoint.rows), analysis.estimators)),
        "by_module_type": {
            name: asdict(summarize(rows, analysis.estimators)) for name, rows in by_type(checkpoint.rows).items()
        },
        "matrices": [flat_row(row, analysis) for row in checkpoint.rows],
    }


def flat_row(row: Row, analysis: Analysis) -> dict[str, Any]:
    """All numbers of a matrix by the name of their column."""
    m, n = row.stored.shape
    columns: dict[str, Any] = {
        "name": row.name,
        "rows": m,
        "columns": n,
        "dtype": row.stored.dtype,
        "depth": row.place.depth,
        "module_type": row.place.module_type,
        "status": row.status,
        "message": row.message,
    }
    measured = row.analysis
    ok = measured is not None and measured.status == "ok"
    for name in _NUMBERS:
        columns[name] = getattr(measured, name) if measured is not None else None
    columns["spikes"] = measured.spikes if ok and measured is not None else None
    for estimator in analysis.estimators:
        fit = row.fit(estimator)
        numbers: Mapping[str, Any] = {} if fit is None else {name: getattr(fit, name) for name in _FIT_NUMBERS}
        columns |= {f"{name}_{estimator}": numbers.get(name) for name in _FIT_NUMBERS}
        columns[f"status_{estimator}"] = row.fit_status(estimator)
        columns |= _trust(row, estimator, analysis)
    if measured is not None and measured.randomized is not None:
        columns |= {f"{name}_randomized": getattr(measured.randomized, name) for name in _NUMBERS}
        columns["spikes_randomized"] = measured.randomized.spikes if ok else None
        columns |= {f"alpha_{name}_randomized": fit.alpha for name, fit in measured.randomized.fits.items()}
    return columns


def _trust(row: Row, estimator: Estimator, analysis: Analysis) -> dict[str, Any]:
    """What was asked for about how far a fit can be trusted."""
    columns: dict[str, Any] = {}
    if analysis.samples:
        goodness = row.goodness.get(estimator)
        columns[f"p_value_{estimator}"] = row.p_value(estimator)
        columns[f"bootstrap_error_{estimator}"] = None if goodness is None else goodness.standard_error
    for law in ALTERNATIVES if analysis.alternatives else ():
        comparison = row.comparisons.get(estimator, {}).get(law)
        columns[f"{law}_ratio_{estimator}"] = None if comparison is None else comparison.log_likelihood_ratio
        columns[f"{law}_p_value_{estimator}"] = None if comparison is None else comparison.p_value
    return columns


_NUMBERS = (
    "stable_rank",
    "spectral_entropy",
    "frobenius_norm",
    "spectral_norm",
    "marchenko_pastur_edge",
    "alpha_weighted",
)
_FIT_NUMBERS = ("alpha", "standard_error", "xmin", "ks_distance", "tail_size")
