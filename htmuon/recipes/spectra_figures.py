"""Figures of spectra: singular values of weights and updates by layer type, power-law exponents by layer."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from htmuon.analysis import Estimator, PowerLawFit
from htmuon.analysis.plots import plot_alphas, plot_spectra
from htmuon.recipes.figures import Figure, Panel, plain_log_ticks
from htmuon.recipes.labels import Style
from htmuon.recipes.run_record import Records, RunRecord, SpectrumKind

_INITIAL_COLOR = "#8c959f"


@dataclass(frozen=True)
class _Place:
    """Where a hidden matrix sits in the model, read from its parameter name."""

    depth: int
    layer_type: str

    @classmethod
    def of(cls, name: str) -> "_Place":
        parts = name.removesuffix(".weight").split(".")
        # `model.layers.3.mlp.up_proj` is in layer 3, and so is `layer3.0.conv1`, in the third stage of a ResNet.
        numbers = (part.removeprefix("layer") for part in parts)
        depth = next((int(number) for number in numbers if number.isdigit()), 0)
        words = [part for part in parts if not part.isdigit()]
        return cls(depth, words[-1] if words else parts[-1])


# A type of layer, and how many singular values a matrix of it has: a ResNet's stages differ in size.
_Panel = tuple[str, int]


def _panel_of(name: str, sigma: Tensor) -> _Panel:
    return _Place.of(name).layer_type, len(sigma)


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
                by_panel[_panel_of(name, sigma)][spec].append(sigma)
    initial: dict[_Panel, list[Tensor]] = defaultdict(list)
    if kind == "weights":
        # Runs of one seed start from the same weights: those of the first optimizer stand for all.
        for run in next(iter(records.values())):
            for name, sigma in run.spectra["initial_weights"].items():
                initial[_panel_of(name, sigma)].append(sigma)
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
    ax.set(xlabel="layer", ylabel="alpha")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fits_by_depth(
    runs: Sequence[RunRecord], estimator: Estimator, initial: bool = False
) -> dict[int, list[PowerLawFit]]:
    fits: dict[int, list[PowerLawFit]] = defaultdict(list)
    for run in runs:
        for name, fit in run.weight_fits(estimator, initial=initial).items():
            fits[_Place.of(name).depth].append(fit)
    return fits
