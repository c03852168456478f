"""Figures of spectra: singular values by layer type, power-law exponents by layer, and both over the steps."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from htmuon.analysis import Estimator, PowerLawFit
from htmuon.analysis.plots import plot_alphas, plot_spectra
from htmuon.analysis.spectral_records import RecordKind
from htmuon.compare.labels import Style
from htmuon.compare.report.loss_figures import draw_band
from htmuon.compare.run_record import Records, RunRecord, SpectrumKind
from htmuon.reporting.figures import Figure, Panel, plain_log_ticks
from htmuon.routing.names import module_places

_INITIAL_COLOR = "#8c959f"


# A type of layer, and how many singular values a matrix of it has: a ResNet's stages differ in size.
_Panel = tuple[str, int]


def _panel_of(run: RunRecord, name: str, sigma: Tensor) -> _Panel:
    return run.places[name].module_type, len(sigma)


def _titles(panels: Collection[_Panel]) -> dict[_Panel, str]:
    """The type of layer, with the number of singular values where that alone is ambiguous."""
    sizes = Counter(layer_type for layer_type, _ in panels)
    return {panel: panel[0] if sizes[panel[0]] == 1 else f"{panel[0]} ({panel[1]})" for panel in panels}


def spectra_figure(records: Records, styles: Mapping[str, Style], kind: SpectrumKind) -> Figure:
    """Singular values of the final weights or of the last updates, one panel for each type of layer."""
    by_panel: dict[_Panel, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for spec, runs in records.items():
        for run in runs:
            for name, sigma in run.spectra[kind].items():
                by_panel[_panel_of(run, name, sigma)][spec].append(sigma)
    initial: dict[_Panel, list[Tensor]] = defaultdict(list)
    if kind == "weights":
        # Runs of one seed start from the same weights: those of the first optimizer stand for all.
        for run in next(iter(records.values())):
            for name, sigma in run.spectra["initial_weights"].items():
                initial[_panel_of(run, name, sigma)].append(sigma)
    what = "final weights" if kind == "weights" else "last update"
    relative = "" if kind == "weights" else ", divided by the largest"
    dashed = " Dashed grey: before training." if initial else ""
    return Figure(
        name=f"spectra-of-{kind}",
        title=f"Singular values of the {what}",
        caption=f"Singular values{relative}, in descending order, for each type of layer: median over layers and "
        f"seeds, and their range.{dashed}",
        panels=tuple(
            Panel(
                title=title,
                draw=partial(
                    _draw_spectra, spectra=by_panel[panel], initial=initial.get(panel, []), styles=styles, kind=kind
                ),
            )
            for panel, title in _titles(by_panel).items()
        ),
        small=True,
    )


def _draw_spectra(
    ax: Axes,
    *,
    spectra: Mapping[str, Sequence[Tensor]],
    initial: Sequence[Tensor],
    styles: Mapping[str, Style],
    kind: SpectrumKind,
) -> None:
    if initial:
        plot_spectra(ax, initial, label="before training", color=_INITIAL_COLOR, linestyle="--")
    for spec, sigmas in spectra.items():
        style = styles[spec]
        plot_spectra(
            ax, sigmas, label=style.label, color=style.color, relative=kind == "updates", linestyle=style.linestyle
        )
    ax.set_xlabel("index")
    plain_log_ticks(ax.yaxis, ax.get_ylim())


def alpha_figure(records: Records, styles: Mapping[str, Style]) -> Figure:
    """Power-law exponent of the final weights by layer, one panel for each estimator."""
    names: dict[Estimator, str] = {"ks": "KS estimator (WeightWatcher's)", "hill": "median Hill estimator"}
    draw: Callable[..., None] = partial(_draw_alphas, records=records, styles=styles)
    return Figure(
        name="alpha-by-layer",
        title="Heavy tails of the weights: alpha by layer",
        caption="Exponent alpha of a power law fitted to the eigenvalues of W^T W of the final weights: a smaller "
        "alpha is a heavier tail. Points are matrices, lines their means, grey is before training. The two estimators "
        "are not comparable with each other.",
        panels=tuple(
            Panel(title=f"alpha, {name}", draw=partial(draw, estimator=estimator)) for estimator, name in names.items()
        ),
    )


def _draw_alphas(ax: Axes, *, records: Records, styles: Mapping[str, Style], estimator: Estimator) -> None:
    first = next(iter(records.values()))
    initial = _fits_by_depth(first, estimator, initial=True)
    if initial:
        plot_alphas(ax, initial, label="before training", color=_INITIAL_COLOR, marker="")
    for spec, runs in records.items():
        style = styles[spec]
        plot_alphas(ax, _fits_by_depth(runs, estimator), label=style.label, color=style.color, marker=style.marker)
    ax.set(xlabel="block", ylabel="alpha")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fits_by_depth(
    runs: Sequence[RunRecord], estimator: Estimator, initial: bool = False
) -> dict[int, list[PowerLawFit]]:
    fits: dict[int, list[PowerLawFit]] = defaultdict(list)
    for run in runs:
        for name, fit in run.weight_fits(estimator, initial=initial).items():
            depth = run.places[name].depth
            if depth is not None:
                fits[depth].append(fit)
    return fits


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


def signal_figure(records: Records, styles: Mapping[str, Style]) -> Figure:
    """What fresh gradients repeat of the momentum, by singular value, one panel for each type of layer."""
    by_type: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for spec, runs in records.items():
        for run in runs:
            found = run.signal()
            places = module_places(found)
            for name, shares in found.items():
                by_type[places[name].module_type][spec].append(shares)
    return Figure(
        name="signal-by-singular-value",
        title="How much of the momentum is signal",
        caption="What the gradient of a step repeats of the momentum before it, u^T G v / sigma, by eighths of the "
        "singular values from the largest on: 1 is a direction that stays, 0 noise, and along those below 0 the last "
        "steps have overshot. Means over layers, seeds and records after the first tenth of the training.",
        panels=tuple(
            Panel(title=layer_type, draw=partial(_draw_signal, shares=shares, styles=styles))
            for layer_type, shares in by_type.items()
        ),
        small=True,
    )


def _draw_signal(ax: Axes, *, shares: Mapping[str, Sequence[Sequence[float]]], styles: Mapping[str, Style]) -> None:
    ax.axhline(0, color=_INITIAL_COLOR, linewidth=0.8)
    for spec, rows in shares.items():
        style, means = styles[spec], [statistics.fmean(column) for column in zip(*rows, strict=True)]
        ax.plot(
            range(1, len(means) + 1), means, label=style.label, color=style.color, marker=style.marker, markersize=3
        )
    ax.set(xlabel="eighth of the singular values", ylabel="signal / momentum")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


# What rules find for each matrix, by its key in the records: the name of the figure, its title, and what it shows.
FOUND = {
    "rate_factor": (
        "rates-over-training",
        "The rates that matrices find",
        "The factor of the learning rate that a rule gives a matrix",
        "factor of lr",
    ),
    "power": (
        "powers-over-training",
        "The powers that matrices find",
        "The exponent p that a rule gives a matrix",
        "power",
    ),
}


def found_figure(records: Records, styles: Mapping[str, Style], key: str) -> Figure:
    """What matrices find for themselves, over the steps, one panel for each type of layer.

    Args:
        records: of the runs.
        styles: of the optimizers.
        key: in the records of momentum, one of `FOUND`.
    """
    name, title, what, unit = FOUND[key]
    found = {spec: [run for run in runs if run.evolution("momentum", key).steps] for spec, runs in records.items()}
    types = dict.fromkeys(place.module_type for runs in found.values() for run in runs for place in run.places.values())
    return Figure(
        name=name,
        title=title,
        caption=f"{what}, by type of layer: means over layers. Lines are means over the seeds, bands reach from the "
        "lowest to the highest seed.",
        panels=tuple(
            Panel(
                title=layer_type,
                draw=partial(_draw_found, records=found, styles=styles, key=key, unit=unit, layer_type=layer_type),
            )
            for layer_type in types
        ),
        small=True,
    )


def _draw_found(
    ax: Axes, *, records: Records, styles: Mapping[str, Style], key: str, unit: str, layer_type: str
) -> None:
    for spec, runs in records.items():
        curves = [run.evolution("momentum", key, layer_type) for run in runs]
        draw_band(ax, [curve for curve in curves if curve.steps], styles[spec])
    ax.set(xlabel="step", ylabel=unit)
