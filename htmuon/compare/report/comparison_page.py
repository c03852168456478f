"""The report of a comparison: summary.json, summary.csv, figures and one self-contained report.html."""

from pathlib import Path

from htmuon._files import write_text
from htmuon.baselines.specs import has_separate_rates
from htmuon.compare.columns import budget_cell, columns_of
from htmuon.compare.comparison import Comparison, ComparisonResult, write_summary
from htmuon.compare.interval import CONFIDENCE
from htmuon.compare.labels import label, styles, update_rule
from htmuon.compare.report import loss_figures, power_figures, spectra_figures
from htmuon.compare.summary import OptimizerSummary
from htmuon.reporting.figures import Figure
from htmuon.reporting.page import render, write_pngs
from htmuon.training.run_config import flat_settings


def write_report(comparison: Comparison, folder: Path) -> ComparisonResult:
    """Write summary.json, summary.csv, figures/*.png and report.html, each whole or not at all.

    Args:
        comparison: at least one run must have been measured.
        folder: an existing folder.

    Returns:
        What was found.
    """
    summaries = write_summary(comparison, folder)
    figures = build_figures(comparison, summaries)
    write_pngs(folder / "figures", figures)
    report = folder / "report.html"
    write_text(report, render_html(comparison, summaries, figures, folder))
    sentences = tuple(comparison.verdict(summaries, folder))
    return ComparisonResult(summaries=tuple(summaries), verdict=sentences, report=report)


def build_figures(comparison: Comparison, summaries: list[OptimizerSummary]) -> list[Figure]:
    """The figures for which there is something to draw, in the order of the report."""
    style = styles(tuple(comparison.records))
    records = {spec: runs for spec, runs in comparison.records.items() if runs}
    tuned = {spec: comparison.tuned[spec] for spec in records}
    figures = [
        loss_figures.learning_curves(records, style, comparison.baseline, timed=comparison.timed),
        *([] if comparison.published else [loss_figures.sensitivity(tuned, style)]),
        *([loss_figures.cost(summaries, style)] if comparison.timed else []),
    ]
    if power_figures.families(summaries):
        figures.insert(0, power_figures.power_figure(summaries))
    if any(run.evolution("weights", "stable_rank").steps for runs in records.values() for run in runs):
        figures.append(spectra_figures.evolution_figure(records, style))
    figures += [
        spectra_figures.found_figure(records, style, key)
        for key in spectra_figures.FOUND
        if any(run.evolution("momentum", key).steps for runs in records.values() for run in runs)
    ]
    if any(run.signal() for runs in records.values() for run in runs):
        figures.append(spectra_figures.signal_figure(records, style))
    if any(run.spectra["weights"] for runs in records.values() for run in runs):
        figures += [
            spectra_figures.spectra_figure(records, style, "weights"),
            spectra_figures.spectra_figure(records, style, "updates"),
            spectra_figures.alpha_figure(records, style),
        ]
    return figures


def render_html(comparison: Comparison, summaries: list[OptimizerSummary], figures: list[Figure], folder: Path) -> str:
    """The text of report.html in `folder`."""
    results = [run.result for runs in comparison.records.values() for run in runs if run.result is not None]
    return render(
        "htmuon.compare.report",
        "report.html",
        run=comparison.run,
        result=results[0],
        comparison=comparison,
        summaries=summaries,
        verdict=comparison.verdict(summaries, folder),
        confidence=CONFIDENCE,
        budget_cell=budget_cell,
        styles=styles(tuple(comparison.records)),
        rules={summary.spec: update_rule(summary.spec) for summary in summaries},
        columns=columns_of(summaries),
        has_separate_rates=has_separate_rates,
        best=min(summaries, key=lambda summary: summary.loss).spec,
        figures=figures,
        settings=flat_settings(comparison.run.to_dict()),
        guide=next((spec for spec in comparison.records if comparison.tuned[spec].other_grid), None),
        not_interior=[label(spec) for spec in comparison.records if not comparison.tuned[spec].interior],
    )
