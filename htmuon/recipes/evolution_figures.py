"""The figure of spectra over training: what the monitor of every run recorded."""

from collections.abc import Mapping
from functools import partial

from matplotlib.axes import Axes

from htmuon.analysis.spectral_records import RecordKind
from htmuon.recipes.figures import Figure, Panel
from htmuon.recipes.labels import Style
from htmuon.recipes.loss_figures import draw_band
from htmuon.recipes.run_record import Records

# Title, kind and quantity of each panel.
_PANELS: tuple[tuple[str, RecordKind, str], ...] = (
    ("alpha of the weights, KS estimator", "weights", "alpha_ks"),
    ("alpha of the weights, median Hill estimator", "weights", "alpha_hill"),
    ("Stable rank of the weights", "weights", "stable_rank"),
    ("Stable rank of the updates", "updates", "stable_rank"),
)


def evolution_figure(records: Records, styles: Mapping[str, Style]) -> Figure:
    """Power-law exponents and stable ranks over the steps; runs without records are left out."""
    return Figure(
        name="spectra-over-training",
        title="How the tails evolve",
        caption="Means over the hidden matrices, recorded while training. Lines are means over the seeds, bands reach "
        "from the lowest to the highest seed. A smaller alpha is a heavier tail; the two estimators are not comparable "
        "with each other. The stable rank, sum sigma^2 / sigma_1^2, says how many directions count.",
        panels=tuple(
            Panel(title=title, draw=partial(_draw, records=records, styles=styles, kind=kind, quantity=quantity))
            for title, kind, quantity in _PANELS
        ),
    )


def _draw(ax: Axes, *, records: Records, styles: Mapping[str, Style], kind: RecordKind, quantity: str) -> None:
    for spec, runs in records.items():
        curves = [curve for curve in (run.evolution(kind, quantity) for run in runs) if curve.steps]
        draw_band(ax, curves, styles[spec])
    ax.set(xlabel="step", ylabel=quantity.partition("_")[0] if quantity.startswith("alpha") else "stable rank")
