"""Fused weights: parts of one parameter that are matrices of their own, as q, k and v in one projection.

The parts are rows of the matrix `[out, in]`. Each gets its own spectrum, normalization, statistics and update scale.
Parts of equal size that follow each other are computed as one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from htmuon._typing import MatrixView, State
from htmuon.layouts import Bracket
from htmuon.routing.views import matrix_shape, matrix_view, undo_matrix_view


@dataclass(frozen=True)
class Interleaved:
    """Parts whose rows take turns: `heads` repetitions of runs of `sizes` rows; part k is run k of all heads.

    Attributes:
        heads: how often the runs repeat.
        sizes: the rows of each run.
    """

    heads: int
    sizes: tuple[int, ...]


# As a user gives it: so many equal parts, or the rows of each part.
Split = int | Sequence[int]


def part_shapes(shape: tuple[int, ...], view: MatrixView, split: Split | None) -> list[tuple[int, ...]]:
    """The shapes of the matrices of a parameter, one for each run of equal parts: `[*batch, parts, rows, in]`.

    Without a split it is the one shape `[*batch, out, in]`.

    Args:
        shape: of the parameter.
        view: how it stores its matrices.
        split: so many equal parts, or the rows of each part.

    Raises:
        ValueError: the parts are not the rows of the matrix.

    Example:
        >>> part_shapes((96, 32), "linear", 3), part_shapes((64, 32), "linear", (32, 16, 16))
        ([(3, 32, 32)], [(1, 32, 32), (2, 16, 32)])
    """
    *batch, out, inputs = matrix_shape(shape, view)
    if split is None:
        return [(*batch, out, inputs)]
    sizes = part_sizes(out, split)
    return [(*batch, len(list(run)), rows, inputs) for rows, run in groupby(sizes)]


def part_sizes(out: int, split: Split) -> list[int]:
    """The rows of every part.

    Args:
        out: the rows of the matrix.
        split: so many equal parts, or the rows of each part.

    Raises:
        ValueError: the parts are not the rows of the matrix.

    Example:
        >>> part_sizes(96, 3), part_sizes(64, (32, 16, 16))
        ([32, 32, 32], [32, 16, 16])
    """
    sizes = [out // max(split, 1)] * split if isinstance(split, int) else list(split)
    if not sizes or min(sizes) < 1 or sum(sizes) != out:
        raise ValueError(
            f"split must be a number that divides the {out} output rows of the matrix, or a list of sizes whose sum "
            f"they are; got {split!r}. For q, k and v in one projection of equal heads give 3."
        )
    return sizes


def state_name(name: str, run: int) -> str:
    """Under which name a split parameter keeps the state of a run of parts."""
    return f"{name}.{run}"


def parts_of_state(name: str, sizes: Sequence[int]) -> slice:
    """Of which parts a state holds something, by its name.

    Args:
        name: `NAME.run`, or `NAME` of what is not split.
        sizes: the rows of every part.

    Example:
        >>> parts_of_state("second_momentum_buffer.1", (32, 16, 16))
        slice(1, 3, None)
    """
    if not sizes:
        return slice(None)
    lengths = [len(list(run)) for _, run in groupby(sizes)]
    number = int(name.rpartition(".")[2])
    first = sum(lengths[:number])
    return slice(first, first + lengths[number])


def _names(state: State, run: int) -> list[str]:
    """The names of what is kept for a run, as its bracket knows them."""
    suffix = state_name("", run)
    return [name.removesuffix(suffix) for name in state if name.endswith(suffix)]


def split_bracket(
    brackets: Sequence[Bracket],
    shapes: Sequence[tuple[int, ...]],
    view: MatrixView,
    shape: tuple[int, ...],
) -> Bracket:
    """One bracket for a parameter, from one for each run of its parts.

    Args:
        brackets: for stacks `[stack, *batch, parts, rows, in]`.
        shapes: of the runs, as `part_shapes` gives them.
        view: how the parameter stores its matrices.
        shape: of the parameter.
    """

    def run(direction: Tensor, state: State) -> tuple[Tensor, State]:
        matrix = matrix_view(direction, view, stacked=True)
        pieces = torch.split(matrix, [parts * rows for *_, parts, rows, _ in shapes], dim=-2)
        updates: list[Tensor] = []
        adapted: State = {}
        for index, (bracket, piece, of) in enumerate(zip(brackets, pieces, shapes, strict=True)):
            own = {name: state[state_name(name, index)] for name in _names(state, index)}
            update, new = bracket(torch.unflatten(piece, -2, of[-3:-1]).contiguous(), own)
            updates.append(update.flatten(-3, -2))
            adapted |= {state_name(name, index): kept for name, kept in new.items()}
        return undo_matrix_view(torch.cat(updates, dim=-2), view, shape), adapted

    return run
