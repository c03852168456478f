"""Figures of an analysis: alpha by depth and by module type, and the spectra of each type."""

import re
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from htmuon._files import slug
from htmuon.analysis import Estimator, MatrixAnalysis, PowerLawFit
from htmuon.analysis.plots import plot_alphas, plot_alphas_by_type, plot_esd
from htmuon.checkpoints.alpha_summary import by_type, module_types
from htmuon.checkpoints.alpha_table import ESTIMATOR_NAMES, short_name
from htmuon.checkpoints.analysis_result import Analysis, Row
from htmuon.reporting.figures import Figure, Panel

# Of each checkpoint: color and marker, from a palette that is told apart under all common colour-vision deficiencies.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"))
_ESTIMATORS: dict[Estimator, str] = {"ks": "KS estimator (WeightWatcher's)", "hill": "median Hill estimator"}
# In a figure of one checkpoint the fit and the noise have colors of their own.
FIT_COLOR, BULK_COLOR = "#D55E00", "#8c959f"
# Spectra drawn of one module type: evenly over the layers, with the first and the last.
_PANELS = 8
# More types than this make a figure that nobody reads.
_TYPES = 40


def build_figures(analysis: Analysis) -> list[Figure]:
    """The figures for which there is something to draw."""
    labels = series_labels(analysis)
    figures = []
    if any(_by_depth(rows, e) for rows in _all_rows(analysis) for e in analysis.estimators):
        figures.append(_depth_figure(analysis, labels))
    if _fitted(analysis):
        figures.append(_type_figure(analysis, labels))
    return figures + _spectra_figures(analysis, labels)


def series_labels(analysis: Analysis) -> tuple[str, ...]:
    """What each checkpoint is called in legends: its path, or the end of it where that is enough."""
    paths = [checkpoint.path for checkpoint in analysis.checkpoints]
    names = [path.name or str(path) for path in paths]
    chosen = names if len(set(names)) == len(names) else [str(path) for path in paths]
    return tuple(map(plain, chosen))


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would begin a formula."""
    return text.replace("$", r"\$")


def _depth_figure(analysis: Analysis, labels: Sequence[str]) -> Figure:
    return Figure(
        name="alpha-by-depth",
        title="Alpha by depth",
        caption="Exponent alpha of the power law, by block: a smaller alpha is a heavier tail. Points are matrices, "
        "the line is their mean. The estimators are not comparable with each other.",
        panels=tuple(
            Panel(
                title=f"alpha, {_ESTIMATORS[estimator]}",
                draw=partial(_draw_depths, analysis=analysis, labels=labels, estimator=estimator),
            )
            for estimator in analysis.estimators
        ),
    )


def _draw_depths(ax: Axes, *, analysis: Analysis, labels: Sequence[str], estimator: Estimator) -> None:
    for rows, label, (color, marker) in zip(_all_rows(analysis), labels, STYLES, strict=False):
        plot_alphas(ax, _by_depth(rows, estimator), label=label, color=color, marker=marker)
    ax.set(xlabel="block", ylabel="alpha")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _by_depth(rows: Sequence[Row], estimator: Estimator) -> dict[int, list[PowerLawFit]]:
    fits: dict[int, list[PowerLawFit]] = {}
    for row in rows:
        fit = row.fit(estimator)
        if row.place.depth is not None and fit is not None and fit.ok:
            fits.setdefault(row.place.depth, []).append(fit)
    return fits


def _type_figure(analysis: Analysis, labels: Sequence[str]) -> Figure:
    types = _fitted(analysis)
    more = f" The first {_TYPES} of {len(types)} types are drawn." if len(types) > _TYPES else ""
    return Figure(
        name="alpha-by-module-type",
        title="Alpha by module type",
        caption="The same by the module's name within its block: points are matrices, the large mark is their mean."
        f"{more}",
        panels=tuple(
            Panel(
                title=f"alpha, {_ESTIMATORS[estimator]}",
                draw=partial(_draw_types, analysis=analysis, labels=labels, estimator=estimator, types=types[:_TYPES]),
            )
            for estimator in analysis.estimators
        ),
    )


def _draw_types(
    ax: Axes, *, analysis: Analysis, labels: Sequence[str], estimator: Estimator, types: Sequence[str]
) -> None:
    shifts = (-0.15, 0.15) if analysis.compared else (0.0,)
    for checkpoint, label, (color, marker), shift in zip(analysis.checkpoints, labels, STYLES, shifts, strict=False):
        groups = by_type(checkpoint.rows)
        fits = {
            plain(name): [fit for fit in (row.fit(estimator) for row in groups.get(name, [])) if fit is not None]
            for name in types
        }
        plot_alphas_by_type(ax, fits, label=label, color=color, marker=marker, shift=shift)
    ax.set(xlabel="alpha")
    ax.tick_params(axis="y", labelsize=max(4.5, min(9, 150 / len(types))))


def _fitted(analysis: Analysis) -> list[str]:
    """The module types that have an alpha somewhere."""
    groups = [by_type(checkpoint.rows) for checkpoint in analysis.checkpoints]
    return [
        name
        for name in module_types(analysis)
        if any(
            row.alpha(estimator) is not None
            for group in groups
            for row in group.get(name, [])
            for estimator in analysis.estimators
        )
    ]


def _spectra_figures(analysis: Analysis, labels: Sequence[str]) -> list[Figure]:
    """One figure for each module type, one panel for each matrix."""
    groups: dict[str, list[str]] = {name: [] for name in module_types(analysis)}
    pairs = analysis.pairs()
    for name, rows in pairs.items():
        if any(_drawable(row) is not None for row in rows):
            groups[next(row.place.module_type for row in rows if row is not None)].append(name)
    drawn = [(module_type, names) for module_type, names in groups.items() if names]
    return [
        _spectra_figure(analysis, labels, title, {name: pairs[name] for name in _spread(names)}, len(names), number)
        for number, (title, names) in enumerate(drawn[:_TYPES])
    ]


def _spectra_figure(
    analysis: Analysis,
    labels: Sequence[str],
    module_type: str,
    pairs: dict[str, tuple[Row | None, ...]],
    available: int,
    number: int,
) -> Figure:
    drawn = f"{len(pairs)} of {available} matrices, evenly spaced. " if len(pairs) < available else ""
    fit = ESTIMATOR_NAMES[analysis.estimators[0]]
    return Figure(
        name=f"spectra-{number:02}-{slug(module_type)}",  # names that differ in punctuation alone have one slug
        title=f"Spectra: {module_type}",
        caption=f"{drawn}Density of the eigenvalues of W^T W without the smallest 2%, both axes logarithmic. Dashed: "
        f"the power law ({fit}). Thin: the Marchenko-Pastur law, which noise of the same size would follow; dotted: "
        "its edge.",
        panels=tuple(
            Panel(
                title=_title(name, rows, analysis.estimators[0]),
                draw=partial(_draw_spectra, rows=rows, labels=labels, estimator=analysis.estimators[0]),
            )
            for name, rows in pairs.items()
        ),
        small=True,
    )


def _draw_spectra(ax: Axes, *, rows: Sequence[Row | None], labels: Sequence[str], estimator: Estimator) -> None:
    for row, label, (color, _) in zip(rows, labels, STYLES, strict=False):
        measured = _drawable(row)
        if row is not None and measured is not None:
            plot_esd(
                ax,
                measured.sigma,
                label=label,
                color=color,
                fit=row.fit(estimator),
                fit_color=FIT_COLOR if len(rows) == 1 else None,
                bulk=(measured.marchenko_pastur_edge, measured.shape),
                bulk_color=BULK_COLOR if len(rows) == 1 else None,
            )
    for axis in (ax.xaxis, ax.yaxis):  # small panels have room for powers of ten alone
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_minor_locator(NullLocator())
    ax.tick_params(labelsize=8)
    ax.set_xlabel("eigenvalue", fontsize=9)


def _drawable(row: Row | None) -> MatrixAnalysis | None:
    """What was measured, where there is a spectrum above zero."""
    if row is None or row.analysis is None or row.analysis.status not in ("ok", "too_small"):
        return None
    return row.analysis


def _title(name: str, rows: Sequence[Row | None], estimator: Estimator) -> str:
    alphas = [None if row is None else row.alpha(estimator) for row in rows]
    shown = " / ".join("-" if alpha is None else f"{alpha:.2f}" for alpha in alphas)
    row = next(row for row in rows if row is not None)
    numbers = ".".join(re.findall(r"(?<=[.\[])\d+(?=[.\]]|$)", f".{name}"))
    parts = short_name(name).split(".")
    where = f"block {numbers}" if row.place.depth is not None else (numbers or plain(parts[-1][-22:]))
    return f"{where}: alpha {shown}"


def _spread(names: Sequence[str]) -> list[str]:
    if len(names) <= _PANELS:
        return list(names)
    return [names[round(i * (len(names) - 1) / (_PANELS - 1))] for i in range(_PANELS)]


def _all_rows(analysis: Analysis) -> list[tuple[Row, ...]]:
    return [checkpoint.rows for checkpoint in analysis.checkpoints]
