"""The columns of the comparison's table: the same numbers in the terminal and in the report."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from htmuon.compare.equal_budget import LossesAtBudget
from htmuon.compare.interval import CONFIDENCE
from htmuon.compare.labels import label, loss_name
from htmuon.compare.paired import PairedLosses
from htmuon.compare.summary import OptimizerSummary
from htmuon.reporting.tables import NONE, number
from htmuon.training.run_config import DataSplit


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: its heading.
        meaning: one sentence for the reader of the report.
        text: the cell of a summary.
        brief: whether the terminal shows it too.
    """

    header: str
    meaning: str
    text: Callable[[OptimizerSummary], str]
    brief: bool = True


def format_bytes(size: int | None) -> str:
    """A size with three digits and a decimal unit.

    Example:
        >>> format_bytes(12_345_678), format_bytes(999), format_bytes(None)
        ('12.3 MB', '999 B', '-')
    """
    if size is None:
        return NONE
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def _loss(summary: OptimizerSummary) -> str:
    if summary.diverged:
        return f"diverged ({summary.diverged} of {len(summary.losses)})"
    return _with_spread(f"{summary.loss:.4f}", summary.spread)


def _difference(summary: OptimizerSummary) -> str:
    if summary.difference is None or summary.diverged:
        return NONE
    return _with_spread(f"{summary.difference:+.4f}", summary.difference_spread)


def _interval(losses: PairedLosses) -> str:
    interval = losses.interval
    return NONE if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}"


def budget_cell(entry: LossesAtBudget) -> str:
    """The losses of one optimizer at one budget, and their difference to the baseline's."""
    if not math.isfinite(entry.loss):
        return NONE
    text = _with_spread(f"{entry.loss:.4f}", entry.spread)
    if entry.difference is None:
        return text
    interval = f", {_interval(entry)}" if entry.interval else ""
    return f"{text} ({entry.difference:+.4f}{interval})"


def _with_spread(value: str, spread: float | None) -> str:
    return value if spread is None else f"{value} ± {spread:.4f}"


def _share(summary: OptimizerSummary) -> str:
    return number(summary.optimizer_share, ".0%")


def _steps(summary: OptimizerSummary) -> str:
    return NONE if summary.steps_to_baseline is None else f"{summary.steps_to_baseline:.0f}"


def _tokens(summary: OptimizerSummary) -> str:
    return NONE if summary.tokens_to_baseline is None else f"{summary.tokens_to_baseline:,.0f}"


def _accuracy(summary: OptimizerSummary) -> str:
    if summary.accuracy is None:
        return NONE
    spread = summary.accuracy_spread
    return f"{100 * summary.accuracy:.2f}" if spread is None else f"{100 * summary.accuracy:.2f} ± {100 * spread:.2f}"


def columns_of(summaries: Sequence[OptimizerSummary]) -> tuple[Column, ...]:
    """The columns of a comparison whose results are `summaries`, at least one."""
    first = summaries[0]
    return columns(label(first.baseline), first.split, images=any(summary.accuracies for summary in summaries))


def columns(baseline: str, split: DataSplit, *, images: bool) -> tuple[Column, ...]:
    """The columns of a comparison with the optimizer called `baseline`; the headings leave its settings out."""
    name = baseline.partition(" (")[0]
    unit, data = ("image", "images") if images else ("token", "documents")
    loss, which = loss_name(split), "held back" if split == "confirmation" else split
    quality = (
        Column("accuracy [%]", f"Share of the images ({which}) classified rightly, likewise.", _accuracy)
        if images
        else Column("perplexity", "Exponential of the mean loss.", lambda s: number(s.perplexity, ".2f"))
    )
    return (
        Column(loss, f"Nats per {unit}, {data} ({which}): mean ± standard deviation over seeds.", _loss),
        quality,
        Column(f"vs {name}", f"Loss minus {baseline}'s, paired by seed: mean ± standard deviation.", _difference),
        Column(
            f"{CONFIDENCE:.0%} interval", "Of the mean of those differences, by Student's t.", _interval, brief=False
        ),
        Column(
            "verdict",
            "better or worse where that interval lies below or above zero.",
            lambda s: s.judgement or NONE,
        ),
        Column("lr", "Peak learning rate of the hidden matrices.", lambda s: f"{s.lr:.3g}"),
        Column(
            "ms/step",
            "Median time of a step: its optimizer's, and that of the passes over all runs.",
            lambda s: number(1e3 * s.seconds_per_step, ".3g"),
        ),
        Column("optimizer", "Share of the optimizer in that time.", _share),
        Column("state", "Size of the optimizer's state.", lambda s: format_bytes(s.optimizer_state_bytes), brief=False),
        Column(
            "peak memory",
            "Highest over the runs; on a CPU that of the whole process.",
            lambda s: format_bytes(s.peak_memory_bytes),
            brief=False,
        ),
        Column(
            "alpha (KS)", "Mean power-law exponent of the weights, KS estimator.", lambda s: number(s.alpha_ks, ".2f")
        ),
        Column(
            "alpha (Hill)",
            "The same by the median Hill estimator; the two are not comparable.",
            lambda s: number(s.alpha_hill, ".2f"),
            brief=False,
        ),
        Column(f"steps to {name}", f"Steps to reach {baseline}'s final {loss}, at most.", _steps, brief=False),
        Column(f"{unit}s to {name}", f"The same in training {unit}s.", _tokens, brief=False),
    )
