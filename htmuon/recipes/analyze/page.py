"""The page of an analysis: one self-contained report.html, its figures as PNG, its numbers as CSV and JSON."""

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, select_autoescape

from htmuon.recipes.analyze.figures import BULK_COLOR, FIT_COLOR, STYLES, build_figures
from htmuon.recipes.analyze.output import write_analysis_csv, write_analysis_json, write_text
from htmuon.recipes.analyze.result import Analysis
from htmuon.recipes.analyze.summary import reasons, sentences
from htmuon.recipes.analyze.table import ORDER, layer_cells, layer_heads, type_cells, type_heads
from htmuon.recipes.figures import Figure
from htmuon.recipes.files import new_file


def write_page(folder: Path, analysis: Analysis, command: str) -> Path:
    """Write report.html, figures/*.png, analysis.csv and analysis.json, each whole or not at all.

    Returns:
        The path of the page.
    """
    write_analysis_csv(folder / "analysis.csv", analysis)
    write_analysis_json(folder / "analysis.json", analysis, command)
    figures = build_figures(analysis)
    _write_pngs(folder / "figures", figures)
    write_text(folder / "report.html", render_html(analysis, figures, command))
    return folder / "report.html"


def write_figures(folder: Path, analysis: Analysis) -> Path:
    """Write the figures as PNG into a folder, which is made if it is not there, and return it."""
    _write_pngs(folder, build_figures(analysis))
    return folder


def render_html(analysis: Analysis, figures: Sequence[Figure], command: str) -> str:
    """The text of report.html."""
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(_resource("analysis.html"))
    return template.render(
        analysis=analysis,
        paths=[str(checkpoint.path) for checkpoint in analysis.checkpoints],
        style=_page_style(),
        key=[
            (f"{order}: {part.path}", color)
            for order, part, (color, _) in zip(ORDER, analysis.checkpoints, STYLES, strict=False)
        ],
        spectrum_key=[
            ("eigenvalues", STYLES[0][0]),
            ("power law", FIT_COLOR),
            ("noise (Marchenko-Pastur)", BULK_COLOR),
        ],
        sentences=[*sentences(analysis), *reasons(analysis)],
        tables={
            "type": (type_heads(analysis), type_cells(analysis)),
            "layer": (layer_heads(analysis), layer_cells(analysis)),
        },
        figures=figures,
        command=command,
    )


def _page_style() -> str:
    """The style of the comparison's report: all pages of the library look alike."""
    match = re.search(r"<style>\n(.*?)</style>", _resource("report.html"), flags=re.DOTALL)
    assert match is not None, "report.html has a style"
    return match[1]


def _resource(name: str) -> str:
    return (files("htmuon.recipes") / name).read_text(encoding="utf-8")


def _write_pngs(folder: Path, figures: Sequence[Figure]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        with new_file(folder / f"{figure.name}.png") as path:
            path.write_bytes(figure.png())
