"""Figures of a comparison: each is a list of panels, saved as one PNG and inlined panel by panel as SVG."""

import html
import io
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# The colour of text and axes. In inline SVG it becomes the text colour of the page, so that a dark page works too.
_INK = "#24292f"
_GRID = "#8c959f"
_RC = {
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.25,
    "grid.color": _GRID,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes.

    Attributes:
        title: what is shown.
        draw: draws on the axes.
    """

    title: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels that belong together.

    Attributes:
        name: stem of the PNG's file name.
        title: heading in the report.
        caption: how to read it.
        panels: at least one.
        small: many panels of the same kind, drawn small.
        own_legend: the panels draw a legend each, since their colours are not those of the single optimizers.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    small: bool = False
    own_legend: bool = False

    @property
    def _panel_size(self) -> tuple[float, float]:
        return (3.3, 2.5) if self.small else (5.4, 3.5)  # inches

    def png(self) -> bytes:
        """All panels in one image."""
        columns = min(len(self.panels), 4 if self.small else 2)
        rows = -(-len(self.panels) // columns)
        width, height = self._panel_size
        with _style(self.name):
            canvas = Canvas(figsize=(columns * width, rows * height), layout="constrained")
            for i, panel in enumerate(self.panels):
                _draw(panel, canvas.add_subplot(rows, columns, i + 1))
            if not self.own_legend:
                # One legend for all panels; the report has its own above them.
                handles, labels = canvas.axes[0].get_legend_handles_labels()
                canvas.legend(handles, labels, loc="outside upper left", ncols=4)
            image = io.BytesIO()
            canvas.savefig(image, format="png", dpi=140, facecolor="white")
        return image.getvalue()

    def svgs(self) -> list[str]:
        """Each panel as an `<svg>` element without XML head, transparent, in the page's text colour."""
        return [self._svg(panel, f"{self.name}-{i}") for i, panel in enumerate(self.panels)]

    def _svg(self, panel: Panel, identity: str) -> str:
        with _style(identity):
            canvas = Canvas(figsize=self._panel_size, layout="constrained")
            _draw(panel, canvas.add_subplot())
            text = io.StringIO()
            canvas.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(text.getvalue(), panel.title)


def _style(identity: str) -> AbstractContextManager[None]:
    # The salt makes element ids the same in every build and different between the panels of a page.
    return mpl.rc_context({**_RC, "svg.hashsalt": identity})  # type: ignore[dict-item]  # stubs: literal keys only


def _inline(document: str, title: str) -> str:
    """An SVG document as an element of a page: as wide as its place, with no ids but those that it refers to."""
    head, body = document[document.index("<svg") :].split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[a-z0-9.]+_\d+"', "", body)
    return f'{head} role="img" aria-label="{html.escape(title)}">{body}'.replace(_INK, "currentColor")


def _draw(panel: Panel, ax: Axes) -> None:
    ax.set_title(panel.title)
    panel.draw(ax)


def plain_log_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Label a logarithmic axis with plain numbers: 1, 2, 5 of each decade, or 1 alone where there are many decades."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if limits[1] / limits[0] < 100 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def zoom(ax: Axes, values: Iterable[float], margin: float = 0.06) -> None:
    """Set the y range to the values that matter, with a margin; nothing happens where there are none."""
    values = list(values)
    if not values:
        return
    low, high = min(values), max(values)
    pad = margin * (high - low) or 0.01 * abs(high) or 1.0
    ax.set_ylim(low - pad, high + pad)
