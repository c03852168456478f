"""Figures of losses and costs: learning curves, sensitivity to the learning rate, time of a step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from matplotlib.axes import Axes

from htmuon.compare.equal_budget import paces
from htmuon.compare.labels import Style, loss_name
from htmuon.compare.run_record import Curve, Records
from htmuon.compare.summary import OptimizerSummary, mean_curve
from htmuon.compare.tuned_rates import TunedOptimizer
from htmuon.reporting.figures import Figure, Panel, plain_log_ticks, zoom

# Curves are zoomed to what happens after this part of the run: the fall from the first loss would flatten the rest.
_ZOOM_FROM = 0.25


def learning_curves(records: Records, styles: Mapping[str, Style], baseline: str, *, timed: bool) -> Figure:
    """Losses over steps and, if `timed`, over time, with the range over seeds, and the differences to the baseline."""
    loss = loss_name(next(run.config.split for runs in records.values() for run in runs)).capitalize()
    panels = [
        Panel(title=loss, draw=partial(_draw_curves, records=records, styles=styles, kind="evaluation")),
        Panel(
            title="Training loss (running mean)",
            draw=partial(_draw_curves, records=records, styles=styles, kind="train"),
        ),
    ]
    if timed:
        draw_by_time = partial(_draw_by_time, records=records, styles=styles)
        panels.append(Panel(title=f"{loss} by training time", draw=draw_by_time))
    if len(records) > 1 and baseline in records:
        draw = partial(_draw_differences, records=records, styles=styles, baseline=baseline)
        panels.append(Panel(title=f"{loss} minus {styles[baseline].label}'s", draw=draw))
    return Figure(
        name="learning-curves",
        title="Learning curves",
        caption="Lines are means over the seeds, bands reach from the lowest to the highest seed. The first quarter of "
        "the run is cut off at the top so that the end can be seen. Below zero in the last panel means better.",
        panels=tuple(panels),
    )


def _draw_curves(
    ax: Axes, *, records: Records, styles: Mapping[str, Style], kind: Literal["train", "evaluation"]
) -> None:
    visible: list[float] = []
    for spec, runs in records.items():
        curves = [run.curve(kind) for run in runs]
        if kind == "train":
            curves = [_running_mean(curve) for curve in curves]
        visible += draw_band(ax, curves, styles[spec])
    zoom(ax, visible)
    ax.set(xlabel="step", ylabel="loss (nats)")


def _draw_by_time(ax: Axes, *, records: Records, styles: Mapping[str, Style]) -> None:
    visible: list[float] = []
    for spec, pace in paces(records).items():
        curves = [run.curve("evaluation") for run in records[spec]]
        visible += draw_band(ax, curves, styles[spec], seconds_per_step=pace)
    zoom(ax, visible)
    ax.set(xlabel="seconds of training (without evaluation)", ylabel="loss (nats)")


def _draw_differences(ax: Axes, *, records: Records, styles: Mapping[str, Style], baseline: str) -> None:
    of_seed = {run.config.seed: run.curve("evaluation") for run in records[baseline]}
    visible = [0.0]
    for spec, runs in records.items():
        curves = [
            _difference(run.curve("evaluation"), of_seed[run.config.seed]) for run in runs if run.config.seed in of_seed
        ]
        visible += draw_band(ax, curves, styles[spec])
    zoom(ax, visible)
    ax.set(xlabel="step", ylabel="difference (nats)")


def draw_band(ax: Axes, curves: Sequence[Curve], style: Style, seconds_per_step: float = 1.0) -> list[float]:
    """Draw mean and range of curves at the steps that all have; returns the values after the first part of the run.

    Args:
        ax: where to draw.
        curves: one for each seed.
        style: of the optimizer.
        seconds_per_step: unit of the x axis; 1 leaves steps.
    """
    mean = mean_curve(curves)
    if not mean.steps:
        return []
    tables = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    low = [min(table[step] for table in tables) for step in mean.steps]
    high = [max(table[step] for table in tables) for step in mean.steps]
    x = [step * seconds_per_step for step in mean.steps]
    ax.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
    ax.plot(
        x,
        mean.values,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker,
        markersize=4.5,
        markevery=max(1, len(x) // 8),
        label=style.label,
    )
    first = _ZOOM_FROM * mean.steps[-1]
    return [value for i, step in enumerate(mean.steps) if step >= first for value in (low[i], high[i])]


def _running_mean(curve: Curve) -> Curve:
    """Mean over a window of a twentieth of the run that ends at each step."""
    window = max(1, len(curve.values) // 20)
    values = [
        math.fsum(curve.values[max(0, i + 1 - window) : i + 1]) / min(window, i + 1) for i in range(len(curve.values))
    ]
    return Curve(curve.steps, values)


def _difference(curve: Curve, other: Curve) -> Curve:
    of_step = dict(zip(other.steps, other.values, strict=True))
    shared = [(s, v - of_step[s]) for s, v in zip(curve.steps, curve.values, strict=True) if s in of_step]
    return Curve([step for step, _ in shared], [value for _, value in shared])


def sensitivity(tuned: Mapping[str, TunedOptimizer], styles: Mapping[str, Style]) -> Figure:
    """Tuning loss over the learning rate."""
    return Figure(
        name="learning-rate-sensitivity",
        title="Sensitivity to the learning rate",
        caption="Loss of the tuning runs on the validation split against the learning rate; the ring marks the "
        "chosen rate, a cross at the upper edge a run that diverged or lies beyond the picture. A wide valley is a "
        "forgiving optimizer.",
        panels=(
            Panel(title="Tuning loss by learning rate", draw=partial(_draw_sensitivity, tuned=tuned, styles=styles)),
        ),
    )


def _draw_sensitivity(ax: Axes, *, tuned: Mapping[str, TunedOptimizer], styles: Mapping[str, Style]) -> None:
    zoom(ax, _range_of_valleys([found.grid.values() for found in tuned.values()]))
    ceiling = ax.get_ylim()[1]
    for spec, found in tuned.items():
        style = styles[spec]
        inside = {lr: loss for lr, loss in found.grid.items() if loss <= ceiling}
        outside = [lr for lr in found.grid if lr not in inside]
        shown = {lr: loss for lr, loss in found.grid.items() if math.isfinite(loss)}
        ax.plot(list(shown), list(shown.values()), color=style.color, linestyle=style.linestyle, label=style.label)
        ax.plot(list(inside), list(inside.values()), color=style.color, linestyle="", marker=style.marker, markersize=5)
        ax.plot(outside, [ceiling] * len(outside), color=style.color, linestyle="", marker="x", clip_on=False)
        if found.lr in inside:
            ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.5}
            ax.plot([found.lr], [inside[found.lr]], color=style.color, linestyle="", **ring)  # type: ignore[arg-type]
    ax.set_xscale("log")
    plain_log_ticks(ax.xaxis, ax.get_xlim())
    ax.set(xlabel="learning rate", ylabel="loss (nats)")


def _range_of_valleys(losses: Iterable[Iterable[float]]) -> list[float]:
    """The losses worth showing: every optimizer's best, and above them as much as a typical rate loses."""
    valleys = [finite for finite in ([loss for loss in grid if math.isfinite(loss)] for grid in losses) if finite]
    if not valleys:
        return []
    gaps = sorted(loss - min(valley) for valley in valleys for loss in valley)
    highest_best = max(map(min, valleys))
    return [min(map(min, valleys)), min(highest_best + 2 * gaps[len(gaps) // 2], max(map(max, valleys)))]


def cost(summaries: Sequence[OptimizerSummary], styles: Mapping[str, Style]) -> Figure:
    """Time of a step, split into model and optimizer."""
    return Figure(
        name="cost-per-step",
        title="Cost per step",
        caption="Median time of a training step. Solid: the optimizer. Light: forward and backward pass.",
        panels=(Panel(title="Milliseconds per step", draw=partial(_draw_cost, summaries=summaries, styles=styles)),),
    )


def _draw_cost(ax: Axes, *, summaries: Sequence[OptimizerSummary], styles: Mapping[str, Style]) -> None:
    summaries = [summary for summary in summaries if math.isfinite(summary.seconds_per_step)]
    longest = max(summary.seconds_per_step for summary in summaries)
    for row, summary in enumerate(summaries):
        color = styles[summary.spec].color
        total = 1e3 * summary.seconds_per_step
        optimizer = 1e3 * summary.optimizer_seconds_per_step
        ax.barh(row, total - optimizer, color=color, alpha=0.35, height=0.55)
        ax.barh(row, optimizer, left=total - optimizer, color=color, height=0.55, label=styles[summary.spec].label)
        note = f" {total:.3g} ms, optimizer {100 * summary.optimizer_share:.0f} %"
        ax.text(0, row - 0.32, f"{styles[summary.spec].label}:{note}", va="bottom", fontsize=9)
    ax.set_xlim(0, 1.05e3 * longest)
    ax.set_ylim(len(summaries) - 0.4, -0.85)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("milliseconds")
