"""Numbers and tables for readers: the same cells as aligned text and in a terminal."""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from htmuon._extras import require

if TYPE_CHECKING:
    from rich.table import Table

# What stands for a number that there is not.
NONE = "-"


def number(value: float, style: str) -> str:
    """A number, or a dash for one that is not finite.

    Example:
        >>> number(0.125, ".2f"), number(float("nan"), ".2f")
        ('0.12', '-')
    """
    return format(value, style) if math.isfinite(value) else NONE


def sample_spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values or for values that are not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return statistics.stdev(values)


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[str] = ()) -> str:
    """A table as aligned text: names to the left, numbers to the right.

    Args:
        heads: of the columns.
        rows: cells.
        words: heads of the columns that hold words too, beside the first.

    Example:
        >>> print(plain_table(["name", "loss"], [["muon", "4.5"], ["htmuon", "14.25"]]))
        name     loss
        muon      4.5
        htmuon  14.25
    """
    table = [heads, *rows]
    first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *map(_set, row[1:], others, [head in words for head in heads[1:]])])
        for row in table
    ]
    return "\n".join(line.rstrip() for line in lines)


def _set(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)


def rich_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None, words: Collection[str] = ()
) -> "Table":
    """A table for a terminal: where there is little room, names are folded and numbers are not.

    Args:
        heads: of the columns.
        rows: cells; taken as they are, not as markup, for names can come from a file.
        title: above the table.
        words: heads of the columns that hold words too, beside the first; they are folded as well.
    """
    text = require("rich.text").Text
    table: Table = require("rich.table").Table(
        title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False
    )
    columns = list(zip(heads, *rows, strict=True))
    table.add_column(text(heads[0]), overflow="fold")
    for head, *cells in columns[1:]:
        if head in words:
            table.add_column(text(head), overflow="fold")
            continue
        # Headings are broken between their words.
        table.add_column(text(head), justify="right", min_width=max(map(len, [*head.split(), *cells])))
    for row in rows:
        table.add_row(*map(text, row))
    return table
