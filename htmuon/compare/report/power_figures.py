"""The figure of a sweep: loss against the power p, one line for each family of optimizers."""

import math
from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes

from htmuon.compare.interval import CONFIDENCE
from htmuon.compare.labels import Style, label, loss_name, style_at, styles
from htmuon.compare.summary import OptimizerSummary, baseline_of
from htmuon.compare.sweep import family_of, power_of
from htmuon.reporting.figures import Figure, Panel

# Two optimizers that happen to differ in their power are not a sweep.
_LEAST_POWERS = 3

Family = list[tuple[float, OptimizerSummary]]


def families(summaries: Sequence[OptimizerSummary]) -> dict[str, Family]:
    """The optimizers by family, ascending in the power, for each family that has enough powers for a line."""
    found: dict[str, dict[float, OptimizerSummary]] = {}
    for summary in summaries:
        power = power_of(summary.spec)
        if power is not None and math.isfinite(summary.loss):
            found.setdefault(family_of(summary.spec), {})[power] = summary
    return {name: sorted(members.items()) for name, members in found.items() if len(members) >= _LEAST_POWERS}


def power_figure(summaries: Sequence[OptimizerSummary]) -> Figure:
    """Loss, and its difference to the baseline, over the power."""
    baseline = baseline_of(summaries)
    loss = loss_name(summaries[0].split).capitalize()
    panels = [Panel(title=f"{loss} by power", draw=partial(_draw_losses, summaries=summaries))]
    if baseline is not None and not baseline.diverged:
        draw = partial(_draw_differences, summaries=summaries)
        panels.append(Panel(title=f"{loss} minus {label(baseline.spec)}'s", draw=draw))
    return Figure(
        name="loss-by-power",
        title="Loss against the power p",
        caption="Left: mean and standard deviation over the seeds; the band is the baseline's. Right: mean paired "
        f"difference to the baseline with its {CONFIDENCE:.0%} interval; below zero is better. Each point has its own "
        "learning rate. Optimizers with a power schedule or a power rule are in the table alone.",
        panels=tuple(panels),
        own_legend=True,
    )


def _draw_losses(ax: Axes, *, summaries: Sequence[OptimizerSummary]) -> None:
    lines, baseline_style = _styles(summaries)
    for name, members in families(summaries).items():
        bars = [member.spread or 0.0 for _, member in members]
        _draw_line(ax, members, [member.loss for _, member in members], (bars, bars), lines[name])
    baseline = baseline_of(summaries)
    if baseline is not None and not baseline.diverged:
        spread, color = baseline.spread or 0.0, baseline_style.color
        ax.axhspan(baseline.loss - spread, baseline.loss + spread, color=color, alpha=0.15, linewidth=0)
        ax.axhline(baseline.loss, color=color, linestyle=":", linewidth=1.2, label=baseline_style.label)
    ax.set(xlabel="power p", ylabel="loss")
    ax.legend()


def _draw_differences(ax: Axes, *, summaries: Sequence[OptimizerSummary]) -> None:
    lines, baseline_style = _styles(summaries)
    for name, members in families(summaries).items():
        paired = [(power, member) for power, member in members if member.difference is not None]
        means = [member.difference or 0.0 for _, member in paired]
        intervals = [member.interval for _, member in paired]
        below = [mean - found.low if found else 0.0 for mean, found in zip(means, intervals, strict=True)]
        above = [found.high - mean if found else 0.0 for mean, found in zip(means, intervals, strict=True)]
        if paired:
            _draw_line(ax, paired, means, (below, above), lines[name])
    ax.axhline(0.0, color=baseline_style.color, linestyle=":", linewidth=1.2, label=baseline_style.label)
    ax.set(xlabel="power p", ylabel="difference of the loss")
    ax.legend()


def _styles(summaries: Sequence[OptimizerSummary]) -> tuple[dict[str, Style], Style]:
    """Styles of the families by name, and that of the baseline, which may be a point of a line as well."""
    names = tuple(families(summaries))
    return styles(names), style_at(len(names), summaries[0].baseline)


def _draw_line(
    ax: Axes, members: Family, values: list[float], bars: tuple[list[float], list[float]], style: Style
) -> None:
    ax.errorbar(
        [power for power, _ in members],
        values,
        yerr=bars,
        color=style.color,
        linestyle=style.linestyle,
        marker=style.marker,
        markersize=5,
        capsize=3,
        label=style.label,
    )
