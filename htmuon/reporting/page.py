"""A self-contained page: a template of this package with the style that all pages of the library have."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, select_autoescape

from htmuon._files import new_file
from htmuon.reporting.figures import Figure


def render(package: str, name: str, **values: Any) -> str:
    """The text of a page.

    Args:
        package: where the template is, such as "htmuon.compare.report".
        name: of its file.
        values: what it shows; all of them are escaped. `style` is the common one.
    """
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((files(package) / name).read_text(encoding="utf-8"))
    style = (files("htmuon.reporting") / "page.css").read_text(encoding="utf-8")
    return template.render(style=style, **values)


def write_pngs(folder: Path, figures: Iterable[Figure]) -> None:
    """Write figures as PNG, each whole or not at all, into a folder that is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        with new_file(folder / f"{figure.name}.png") as path:
            path.write_bytes(figure.png())
