"""Draw the loss minus Muon's against tokens per parameter, from the stored experiments: docs/results/figures.

    python benchmarks/tokens_figure.py

Experiments are those of `benchmarks/evidence.py` on the embedded text. Nothing is drawn of what was not run.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from evidence_tables import MUON, ROOT, results
from matplotlib import colormaps
from matplotlib.axes import Axes

from htmuon.reporting.figures import Figure, Panel, plain_log_ticks

FIGURE = ROOT / "docs" / "results" / "figures" / "loss-by-tokens.png"
# By the network: confirmations stand for themselves, as other seeds on other data.
NARROW, TINY = "332 thousand parameters", "2.3 million parameters"
EXPERIMENTS = {
    "llama-tiny": TINY,
    "schedules": TINY,
    "kinds-llama-tiny": TINY,
    "rules-llama-tiny": TINY,
    "large-batch": NARROW,
    "negative": NARROW,
    "two-rates": NARROW,
    "kinds": NARROW,
    "kinds-powers": NARROW,
    "long-1": NARROW,
    "long-4": NARROW,
    "long-10": NARROW,
    "long-20": NARROW,
    "long-60": NARROW,
}
BY_KIND = "lr_scale.query+key=2,lr_scale.value+output+down=0.35"
RATES = f"{MUON},{BY_KIND}"
SEVEN = "method=quintic,steps=7"
POWERS = (
    "htmuon:spectral_map=floored_power,normalization=rms,power=0,power.query=0.15,power.value+output+down=-0.7,"
    "power.gate+up=-0.4"
)
LINES = {
    "AdamW, two rates": ("adamw:two_rates=true",),
    "p = 1/8": ("htmuon",),
    "p = 1/8, size of Muon": ("htmuon:normalization=rms",),
    "p = -1/4, size of Muon": (f"htmuon:power=-0.25,{SEVEN}",),
    "p from 1 to -1/4": (
        *(f"htmuon:schedule=logistic,start=1,end=-0.25,total_steps={n}" for n in (125, 200)),
        *(f"htmuon:schedule=logistic,start=1,end=-0.25,total_steps={n},normalization=none,{SEVEN}" for n in (163, 650)),
    ),
    "powers by kind": (POWERS,),
    "rates by kind": (RATES, f"{MUON},lr_scale=kinds"),
    "rate rule": (f"{MUON},rate_rule=alignment",),
    "power rule": ("muon:power_rule=alignment",),
    "both rules": ("muon:power_rule=alignment,rate_rule=alignment",),
    "power rule, rates by kind": (f"muon:power_rule=alignment,{BY_KIND}", "muon:power_rule=alignment,lr_scale=kinds"),
}


@dataclass(frozen=True)
class Point:
    """One optimizer in one experiment: tokens per parameter, and the difference with its 95 % interval."""

    tokens: float
    difference: float
    low: float
    high: float
    network: str


def points(found: dict[str, dict[str, Any]], specs: tuple[str, ...]) -> list[Point]:
    """What was measured of an optimizer, by tokens."""
    measured: dict[tuple[float, str], Point] = {}
    for experiment, network in EXPERIMENTS.items():
        result = found.get(experiment)
        for row in result["optimizers"] if result is not None else ():
            if row["spec"] in specs and row["difference_low"] is not None:
                tokens = result["steps"] * result["examples_per_step"] / result["parameters"]
                interval = (row["difference"], row["difference_low"], row["difference_high"])
                measured[tokens, network] = Point(tokens, *interval, network)
    return sorted(measured.values(), key=lambda point: point.tokens)


def draw(ax: Axes, *, found: dict[str, dict[str, Any]]) -> None:
    """A line through the points of each network, with intervals; points of different optimizers stand side by side."""
    # Dark ones first, then light ones.
    colors = [colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]
    for number, (name, specs) in enumerate(LINES.items()):
        shift = 1.03 ** (number - len(LINES) / 2)
        for network, marker, filled in ((TINY, "s", "white"), (NARROW, "o", None)):
            some = [point for point in points(found, specs) if point.network == network]
            bars = [[p.difference - p.low for p in some], [p.high - p.difference for p in some]]
            ax.errorbar(
                [p.tokens * shift for p in some],
                [p.difference for p in some],
                yerr=bars,
                color=colors[number],
                marker=marker,
                markerfacecolor=filled or colors[number],
                markersize=5,
                capsize=2,
                linewidth=1.4,
                label=name if network == NARROW else None,
            )
    ax.axhline(0.0, color="#8c959f", linestyle=":")
    ax.set(xscale="log", xlabel="training tokens per parameter", ylabel="test loss minus Muon's")
    low, high = ax.get_xlim()
    plain_log_ticks(ax.xaxis, (low, high))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def figure(found: dict[str, dict[str, Any]]) -> Figure:
    """The figure of all stored experiments."""
    panel = Panel(title="Loss by length of training", draw=partial(draw, found=found))
    return Figure(name="loss-by-tokens", title="", caption="", panels=(panel,), own_legend=True)


if __name__ == "__main__":
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_bytes(figure(results()).png())
    print(FIGURE)
