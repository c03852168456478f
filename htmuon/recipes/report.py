"""The report of a comparison: summary.json, summary.csv, figures and one self-contained report.html."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape

from htmuon.recipes import evolution_figures, loss_figures, power_figures, spectra_figures
from htmuon.recipes.config import RunConfig
from htmuon.recipes.equal_budget import Budget, equal_steps, equal_time
from htmuon.recipes.figures import Figure
from htmuon.recipes.files import new_file, write_json
from htmuon.recipes.interval import CONFIDENCE
from htmuon.recipes.labels import label, styles, update_rule
from htmuon.recipes.learning_rates import TunedOptimizer
from htmuon.recipes.optimizers import has_other_rate
from htmuon.recipes.run_record import Records
from htmuon.recipes.summary import OptimizerSummary, summarize, summary_to_csv, summary_to_dict
from htmuon.recipes.table import budget_cell, columns_of
from htmuon.recipes.verdict import Confirmation, verdict, winner


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a report is made from.

    Attributes:
        run: the settings that all runs share.
        seeds: seeds of the report runs.
        tuned: how the learning rate of each optimizer was found, by spec, in the order of the report.
        tuning_seeds: seeds of the tuning runs.
        tuning_command: what was typed to find the learning rates.
        command: what was typed to make this comparison.
        records: the finished report runs by spec.
        baseline: the spec that the others are compared with.
        stored: whether the learning rates come from an earlier search.
        published: whether they are those that others published; `tuning_command` is then where.
        confirms: the folder of an earlier comparison whose winner this one tests afresh, or "".
        warnings: what the reader must know before trusting the numbers.
    """

    run: RunConfig
    seeds: tuple[int, ...]
    tuned: Mapping[str, TunedOptimizer]
    tuning_seeds: tuple[int, ...]
    tuning_command: str
    command: str
    records: Records
    baseline: str
    stored: bool = False
    published: bool = False
    confirms: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every optimizer has a run of every seed."""
        return all(len(runs) == len(self.seeds) for runs in self.records.values())

    @cached_property
    def views(self) -> dict[str, list[Budget]]:
        """Losses at equal steps and, where times can be compared, at equal training time."""
        found = {"equal_steps": equal_steps(self.records, self.baseline)}
        return found | {"equal_time": equal_time(self.records, self.baseline)} if self.timed else found

    @property
    def timed(self) -> bool:
        """Whether the machine trained one run at a time."""
        return all(run.result is None or run.result.side_by_side == 1 for runs in self.records.values() for run in runs)


def write_report(comparison: Comparison, folder: Path) -> list[OptimizerSummary]:
    """Write summary.json, summary.csv, figures/*.png and report.html, each whole or not at all.

    Args:
        comparison: at least one run must have been measured.
        folder: an existing folder.

    Returns:
        The summaries, in the order of the comparison.
    """
    summaries = write_summary(comparison, folder)
    figures = build_figures(comparison, summaries)
    (folder / "figures").mkdir(exist_ok=True)
    for figure in figures:
        with new_file(folder / "figures" / f"{figure.name}.png") as path:
            path.write_bytes(figure.png())
    _write_text(folder / "report.html", render_html(comparison, summaries, figures, folder))
    return summaries


def write_summary(comparison: Comparison, folder: Path) -> list[OptimizerSummary]:
    """Write summary.json and summary.csv, and return the summaries."""
    summaries = summarize(comparison.records, comparison.baseline)
    best = winner(summaries)
    about = {
        "recipe": comparison.run.recipe,
        "command": comparison.command,
        "baseline": comparison.baseline,
        "winner": best.spec if best is not None else None,
        "confirms": comparison.confirms,
        "tuning_seeds": list(comparison.tuning_seeds),
        "complete": comparison.complete,
        "verdict": _sentences(comparison, summaries, folder) if comparison.complete else [],
        "warnings": list(comparison.warnings),
    }
    measured: dict[str, Any] = {"optimizers": [summary_to_dict(summary) for summary in summaries]}
    if comparison.complete:
        measured |= {view: [budget.to_dict() for budget in budgets] for view, budgets in comparison.views.items()}
    write_json(folder / "summary.json", {**about, **measured})
    _write_text(folder / "summary.csv", summary_to_csv(summaries))
    return summaries


def _sentences(comparison: Comparison, summaries: list[OptimizerSummary], folder: Path) -> list[str]:
    if comparison.confirms:
        confirmation = Confirmation(kind="done", text=comparison.confirms)
    else:
        command = shlex.join(["htmuon", "compare", comparison.run.recipe, "--confirm", str(folder)])
        confirmation = Confirmation(kind="needed", text=command)
    budgets = comparison.views.get("equal_time", [])
    at_time = budgets[-1].optimizers if budgets else ()
    sentences = verdict(summaries, timed=comparison.timed, equal_time=at_time, confirmation=confirmation)
    if comparison.published:
        sentences.append(f"The learning rates are published ones, not tuned here: {comparison.tuning_command}.")
    return sentences


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
        figures.append(evolution_figures.evolution_figure(records, style))
    if any(run.spectra["weights"] for runs in records.values() for run in runs):
        figures += [
            spectra_figures.spectra_figure(records, style, "weights"),
            spectra_figures.spectra_figure(records, style, "updates"),
            spectra_figures.alpha_figure(records, style),
        ]
    return figures


def render_html(comparison: Comparison, summaries: list[OptimizerSummary], figures: list[Figure], folder: Path) -> str:
    """The text of report.html in `folder`."""
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((files("htmuon.recipes") / "report.html").read_text(encoding="utf-8"))
    results = [run.result for runs in comparison.records.values() for run in runs if run.result is not None]
    return template.render(
        run=comparison.run,
        result=results[0],
        comparison=comparison,
        summaries=summaries,
        verdict=_sentences(comparison, summaries, folder),
        confidence=CONFIDENCE,
        budget_cell=budget_cell,
        styles=styles(tuple(comparison.records)),
        rules={summary.spec: update_rule(summary.spec) for summary in summaries},
        columns=columns_of(summaries),
        has_other_rate=has_other_rate,
        best=min(summaries, key=lambda summary: summary.loss).spec,
        figures=figures,
        settings=flat_settings(comparison.run.to_dict()),
        guide=next((spec for spec in comparison.records if comparison.tuned[spec].other_grid), None),
        not_interior=[label(spec) for spec in comparison.records if not comparison.tuned[spec].interior],
    )


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name.

    Example:
        >>> flat_settings({"steps": 3, "data": {"path": ""}})
        {'steps': 3, 'data.path': ''}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _write_text(path: Path, text: str) -> None:
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
