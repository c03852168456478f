"""A comparison with its runs: what the table, the verdict and the report are made from."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from htmuon._files import write_json, write_text
from htmuon.compare.equal_budget import Budget, equal_steps, equal_time
from htmuon.compare.run_record import Records
from htmuon.compare.summary import OptimizerSummary, summarize, summary_to_csv, summary_to_dict
from htmuon.compare.tuned_rates import TunedOptimizer
from htmuon.compare.verdict import Confirmation, winner
from htmuon.compare.verdict import verdict as sentences_of
from htmuon.training.run_config import RunConfig


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

    def verdict(self, summaries: Sequence[OptimizerSummary], folder: Path) -> list[str]:
        """What the numbers say, in sentences; `folder` is where the comparison is."""
        if self.confirms:
            confirmation = Confirmation(kind="done", text=self.confirms)
        else:
            command = shlex.join(["htmuon", "compare", self.run.recipe, "--confirm", str(folder)])
            confirmation = Confirmation(kind="needed", text=command)
        budgets = self.views.get("equal_time", [])
        at_time = budgets[-1].optimizers if budgets else ()
        sentences = sentences_of(summaries, timed=self.timed, equal_time=at_time, confirmation=confirmation)
        if self.published:
            sentences.append(f"The learning rates are published ones, not tuned here: {self.tuning_command}.")
        return sentences


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """What a finished comparison found.

    Attributes:
        summaries: one for each optimizer, in the order in which they were given.
        verdict: what the numbers say, in sentences.
        report: the page.
    """

    summaries: tuple[OptimizerSummary, ...]
    verdict: tuple[str, ...]
    report: Path


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
        "verdict": comparison.verdict(summaries, folder) if comparison.complete else [],
        "warnings": list(comparison.warnings),
    }
    measured: dict[str, Any] = {"optimizers": [summary_to_dict(summary) for summary in summaries]}
    if comparison.complete:
        measured |= {view: [budget.to_dict() for budget in budgets] for view, budgets in comparison.views.items()}
    write_json(folder / "summary.json", {**about, **measured})
    write_text(folder / "summary.csv", summary_to_csv(summaries))
    return summaries
