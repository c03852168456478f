"""The page of an analysis: one self-contained report.html, its figures as PNG, its numbers as CSV and JSON."""

from collections.abc import Sequence
from pathlib import Path

from htmuon._files import write_text
from htmuon.checkpoints.alpha_summary import reasons, sentences
from htmuon.checkpoints.alpha_table import ORDER, layer_cells, layer_heads, type_cells, type_heads
from htmuon.checkpoints.analysis_result import Analysis
from htmuon.checkpoints.checkpoint_figures import BULK_COLOR, FIT_COLOR, STYLES, build_figures
from htmuon.checkpoints.output import write_analysis_csv, write_analysis_json
from htmuon.reporting.figures import Figure
from htmuon.reporting.page import render, write_pngs


def write_page(folder: Path, analysis: Analysis, command: str) -> Path:
    """Write report.html, figures/*.png, analysis.csv and analysis.json, each whole or not at all.

    Returns:
        The path of the page.
    """
    write_analysis_csv(folder / "analysis.csv", analysis)
    write_analysis_json(folder / "analysis.json", analysis, command)
    figures = build_figures(analysis)
    write_pngs(folder / "figures", figures)
    write_text(folder / "report.html", render_html(analysis, figures, command))
    return folder / "report.html"


def write_figures(folder: Path, analysis: Analysis) -> Path:
    """Write the figures as PNG into a folder, which is made if it is not there, and return it."""
    write_pngs(folder, build_figures(analysis))
    return folder


def render_html(analysis: Analysis, figures: Sequence[Figure], command: str) -> str:
    """The text of report.html."""
    return render(
        "htmuon.checkpoints",
        "checkpoint.html",
        analysis=analysis,
        paths=[str(checkpoint.path) for checkpoint in analysis.checkpoints],
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
