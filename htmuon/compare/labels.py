"""How optimizers are named, explained and coloured: the same in the table, the figures and the terminal."""

from dataclasses import dataclass

from htmuon.baselines import optimizer_info, parse_spec
from htmuon.training.run_config import DataSplit

# Okabe and Ito's palette, told apart under all common colour-vision deficiencies; its yellow and black are left out
# because one vanishes on a light page and the other on a dark one.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Style:
    """How one optimizer is drawn: a color, a marker and a line style, so that color is never the only sign."""

    label: str
    color: str
    marker: str
    linestyle: str


def label(spec: str) -> str:
    """The optimizer's name for readers.

    Example:
        >>> label("htmuon:power=0.25,normalization=rms")
        'HTMuon (power=0.25, normalization=rms)'
    """
    name, _, settings = spec.partition(":")
    shown = optimizer_info(name).label
    return f"{shown} ({settings.replace(',', ', ')})" if settings else shown


def loss_name(split: DataSplit) -> str:
    """What the loss of a comparison is called, by the data that judges it.

    Example:
        >>> loss_name("test"), loss_name("confirmation")
        ('test loss', 'held-back loss')
    """
    return "held-back loss" if split == "confirmation" else f"{split} loss"


def style_at(place: int, spec: str) -> Style:
    """The style of the optimizer at a place in a comparison, counted from 0."""
    dashes = ("-", "--", ":", "-.")
    return Style(
        label=label(spec),
        color=_COLORS[place % len(_COLORS)],
        marker=_MARKERS[place % len(_MARKERS)],
        linestyle=dashes[place // len(_COLORS) % len(dashes)],
    )


def styles(specs: tuple[str, ...]) -> dict[str, Style]:
    """A style for each optimizer, fixed by its place in the comparison."""
    return {spec: style_at(place, spec) for place, spec in enumerate(specs)}


def update_rule(spec: str) -> str:
    """One line on how an optimizer updates a hidden matrix."""
    name, settings = parse_spec(spec)
    info = optimizer_info(name)
    described = info.rule.removeprefix(f"{info.label}: ")
    described = described[:1].upper() + described[1:]
    changes = ", ".join(f"{key} = {value}" for key, value in settings.items())
    return f"{described} Here with {changes}." if changes else described
