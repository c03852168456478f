"""What a module declares about the parameters in it: the words that the tables of storage are written in."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from htmuon._typing import MatrixView
from htmuon.routing.split import Interleaved

# The parts of a matrix: so many equal ones, the rows of each, or rows that take turns.
Parts = int | tuple[int, ...] | Interleaved
# The modules that hold a module, nearest first, each with the path by which it holds it.
Holders = Sequence[tuple[nn.Module, str]]


@dataclass(frozen=True)
class Stored:
    """How a module stores the matrices of one of its parameters.

    Attributes:
        view: how it is a matrix.
        split: the parts of it that are matrices of their own; None where it is one.
        reason: one clause for the listing.
        apart: whether the parts are matrices of their own even where fused weights stay whole: what is stored in one
            parameter without a common input, as the groups of a convolution.
    """

    view: MatrixView
    split: Parts | None
    reason: str
    apart: bool = False


def holders(model: nn.Module, depth: int = 3) -> dict[nn.Module, Holders]:
    """For every module of a model the modules that hold it, nearest first; of a shared one where it comes first.

    Args:
        model: any module.
        depth: how many of them.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
        >>> [(type(by).__name__, path) for by, path in holders(model)[model[0][0]]]
        [('Sequential', '0'), ('Sequential', '0.0')]
    """
    found: dict[nn.Module, Holders] = {model: ()}
    for module in model.modules():
        for name, child in module.named_children():
            further = [(by, f"{path}.{name}") for by, path in found[module][: depth - 1]]
            found.setdefault(child, ((module, name), *further))
    return found


def is_of(module: nn.Module, library: str, *names: str) -> bool:
    """Whether the class of a module, or one that it is made from, is one of a library's, which need not be installed.

    Args:
        module: any module; a parametrized one has a class that is made from its own.
        library: the name of the package.
        names: of classes; without names every class of the library will do.

    Example:
        >>> is_of(nn.Linear(2, 2), "torch"), is_of(nn.Linear(2, 2), "torch", "Conv1d"), is_of(nn.ReLU(), "timm")
        (True, False, False)
    """
    return any(
        kind.__module__.partition(".")[0] == library and (not names or kind.__name__ in names)
        for kind in type(module).__mro__
        if kind is not nn.Module
    )


def rows_of(parts: Parts) -> int | None:
    """How many rows the parts have together; None where they are counted only.

    Example:
        >>> rows_of((8, 4, 4)), rows_of(Interleaved(4, (2, 1))), rows_of(3)
        (16, 12, None)
    """
    if isinstance(parts, Interleaved):
        return parts.heads * sum(parts.sizes)
    return None if isinstance(parts, int) else sum(parts)


def fits(parts: Parts, rows: int) -> bool:
    """Whether the parts are all the rows of a matrix, and each has at least one.

    Example:
        >>> fits(3, 12), fits(3, 10), fits((8, 4), 12), fits((8, 0, 4), 12), fits(Interleaved(2, (3, 3)), 12)
        (True, False, True, False, True)
    """
    if isinstance(parts, int):
        return parts > 0 and rows % parts == 0 and rows > 0
    sizes = parts.sizes if isinstance(parts, Interleaved) else parts
    return all(isinstance(size, int) and size > 0 for size in sizes) and rows_of(parts) == rows
