"""An analysis for the terminal: a row for each matrix, a row for each module type; 80 columns are enough."""

from collections.abc import Sequence

from rich.table import Table

from htmuon.analysis import Estimator
from htmuon.checkpoints.alpha_summary import GroupSummary, by_type, module_types, summarize
from htmuon.checkpoints.analysis_result import Analysis, Row, difference, shapes_differ
from htmuon.reporting.tables import NONE, number, rich_table

# What the checkpoints of a comparison are called.
ORDER = ("first", "second")
ESTIMATOR_NAMES: dict[Estimator, str] = {"ks": "KS", "hill": "Hill"}


def layer_table(analysis: Analysis) -> Table:
    """One row for each matrix; of two checkpoints, their alphas side by side."""
    return rich_table(layer_heads(analysis), layer_cells(analysis))


def type_table(analysis: Analysis) -> Table:
    """One row for each module type."""
    return rich_table(type_heads(analysis), type_cells(analysis))


def alpha_text(row: Row | None, estimator: Estimator) -> str:
    """Alpha, or the reason why there is none."""
    if row is None:
        return NONE
    alpha = row.alpha(estimator)
    return row.fit_status(estimator) if alpha is None else f"{alpha:.2f}"


def short_name(name: str) -> str:
    """The name without the ending that all weights have.

    Example:
        >>> short_name("layers.0.q_proj.weight"), short_name("experts.weight[3]")
        ('layers.0.q_proj', 'experts[3]')
    """
    stem, bracket, index = name.partition("[")
    return stem.removesuffix(".weight") + bracket + index


def layer_heads(analysis: Analysis) -> list[str]:
    """The headings of the table of matrices."""
    if analysis.compared:
        columns = [(*(f"{ESTIMATOR_NAMES[e]} {n}" for n in ORDER), "diff") for e in analysis.estimators]
        return ["matrix", *(head for heads in columns for head in heads)]
    alphas = [f"alpha {ESTIMATOR_NAMES[estimator]}" for estimator in analysis.estimators]
    distance = ["KS dist"] if "ks" in analysis.estimators else []
    first = ESTIMATOR_NAMES[analysis.estimators[0]]
    trust = [*([f"p {first}"] if analysis.samples else []), *([f"better law {first}"] if analysis.alternatives else [])]
    return ["matrix", "shape", *alphas, *distance, *(trust or ["stable rank", "spikes"])]


def layer_cells(analysis: Analysis) -> list[list[str]]:
    """The cells of the table of matrices."""
    if analysis.compared:
        return [
            [short_name(name), *(cell for estimator in analysis.estimators for cell in _pair(rows, estimator))]
            for name, rows in analysis.pairs().items()
        ]
    return [
        [
            short_name(row.name),
            "x".join(map(str, row.stored.shape)),
            *(alpha_text(row, estimator) for estimator in analysis.estimators),
            *([_distance(row)] if "ks" in analysis.estimators else []),
            *(_trust(row, analysis) or _rank_and_spikes(row)),
        ]
        for row in analysis.checkpoints[0].rows
    ]


def _distance(row: Row) -> str:
    fit = row.fit("ks")
    return number(fit.ks_distance, ".3f") if fit is not None and fit.ok else NONE


def _trust(row: Row, analysis: Analysis) -> list[str]:
    """What was asked for about the first fit; the files have that of all fits."""
    first = analysis.estimators[0]
    value, law = row.p_value(first), row.better_law(first)
    p_value = [NONE if value is None else f"{value:.2f}"] if analysis.samples else []
    better = [NONE if law is None else law.removesuffix("_power_law")] if analysis.alternatives else []
    return p_value + better


def _rank_and_spikes(row: Row) -> list[str]:
    if row.analysis is None:
        return [NONE, NONE]
    return [number(row.analysis.stable_rank, ".1f"), str(row.analysis.spikes) if row.status == "ok" else NONE]


def _pair(rows: Sequence[Row | None], estimator: Estimator) -> list[str]:
    change = difference(rows, estimator)
    without = "shapes" if shapes_differ(rows) else NONE
    return [*(alpha_text(row, estimator) for row in rows), without if change is None else f"{change:+.2f}"]


def type_heads(analysis: Analysis) -> list[str]:
    """The headings of the table of module types."""
    if not analysis.compared:
        alphas = [f"alpha {ESTIMATOR_NAMES[estimator]}" for estimator in analysis.estimators]
        return ["module type", "matrices", *alphas, "stable rank", "spikes"]
    return ["module type", "matrices", *(f"{ESTIMATOR_NAMES[e]} {n}" for e in analysis.estimators for n in ORDER)]


def type_cells(analysis: Analysis) -> list[list[str]]:
    """The cells of the table of module types: means over their matrices."""
    groups = [by_type(checkpoint.rows) for checkpoint in analysis.checkpoints]
    return [
        _type_row(name, [summarize(group.get(name, []), analysis.estimators) for group in groups])
        for name in module_types(analysis)
    ]


def _type_row(name: str, summaries: Sequence[GroupSummary]) -> list[str]:
    first = summaries[0]
    means = [number(part.alpha[estimator].mean, ".2f") for estimator in first.alpha for part in summaries]
    counts = " / ".join(dict.fromkeys(str(part.matrices) for part in summaries))
    others = [number(first.stable_rank, ".1f"), number(first.spikes, ".1f")] if len(summaries) == 1 else []
    return [name, counts, *means, *others]
