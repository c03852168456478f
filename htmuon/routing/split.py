"""Fused weights: parts of one parameter that are matrices of their own, as q, k and v in one projection.

The parts are rows of the matrix `[out, in]`. Each gets its own spectrum, normalization, statistics and update scale.
Rows of one part may stand together, or be interleaved with those of the others, head by head. Parts of equal size that
follow each other are computed as one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from htmuon._checks import plain
from htmuon._typing import MatrixView, State
from htmuon.layouts import Bracket
from htmuon.routing.views import matrix_shape, matrix_view, undo_matrix_view


@dataclass(frozen=True)
class Interleaved:
    """Parts whose rows alternate: `heads` repetitions of runs of `sizes` rows, of which part k has the k-th of each.

    The rows of part k are `h sum(sizes) + sum(sizes[:k]) + i` for every head h and every i below `sizes[k]`, in this
    order; the matrix has `heads sum(sizes)` rows. Models store q, k and v so where a head of each stands beside the
    others (GPT-NeoX, BLOOM), and gate and up where their rows alternate (GPT-OSS: `Interleaved(rows, (1, 1))`).

    Args:
        heads: how often the runs are repeated.
        sizes: the rows of each run: of every part, those of one head.

    Raises:
        TypeError: these are no whole numbers.
        ValueError: one of them is below 1, or there are no sizes.

    Example:
        >>> import torch, htmuon
        >>> qkv = torch.nn.Parameter(torch.zeros(2 * 12, 8))  # two heads, of each 4 rows of q, then of k, then of v
        >>> optimizer = htmuon.HTMuon([{"params": [qkv], "split": htmuon.Interleaved(2, (4, 4, 4))}])
        >>> optimizer.param_groups[0]["split"]
        {'heads': 2, 'sizes': [4, 4, 4]}
    """

    heads: int
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        heads, sizes = plain(self.heads), plain(self.sizes)
        words = f"got heads={heads!r}, sizes={sizes!r}. For q, k, v of 12 heads of 64 rows give 12 and (64, 64, 64)."
        if type(heads) is not int or not _are_sizes(sizes):
            raise TypeError(f"interleaved parts must have a whole number of heads and a tuple of sizes; {words}")
        if min(heads, *sizes) < 1:
            raise ValueError(f"interleaved parts must have 1 or more heads, and 1 or more rows in each; {words}")
        object.__setattr__(self, "heads", heads)
        object.__setattr__(self, "sizes", tuple(sizes))

    @property
    def rows(self) -> int:
        """How many rows a matrix of these parts has."""
        return self.heads * sum(self.sizes)


# So many equal parts, the rows of each part, or parts whose rows alternate.
Split = int | tuple[int, ...] | Interleaved
# As a user may give it, and as a group stores it.
GivenSplit = int | Sequence[int] | Interleaved | Mapping[str, Any]


def _are_sizes(given: object) -> bool:
    return isinstance(given, tuple | list) and len(given) > 0 and all(type(size) is int for size in given)


def split_of(given: GivenSplit) -> Split:
    """A split from what a user gives or a group stores.

    Raises:
        TypeError: it is none.
        ValueError: interleaved parts without rows.

    Example:
        >>> split_of([32, 16, 16]), split_of({"heads": 2, "sizes": [4, 4]})
        ((32, 16, 16), Interleaved(heads=2, sizes=(4, 4)))
    """
    if isinstance(given, Interleaved) or type(given) is int:
        return given
    if isinstance(given, dict) and given.keys() == {"heads", "sizes"}:
        return Interleaved(**given)
    if not isinstance(given, tuple | list) or not _are_sizes(given):
        raise TypeError(
            "split must be None, a number of equal parts or a list of sizes, or htmuon.Interleaved(heads, sizes), all "
            f"of them whole numbers; got {given!r}. For q, k and v in one projection of equal heads give 3."
        )
    return tuple(given)


def split_setting(given: Any) -> Any:
    """What a group stores: interleaved parts as a dict, which every file of settings can hold; all else as it is.

    Example:
        >>> split_setting(Interleaved(2, (4, 4))), split_setting(3)
        ({'heads': 2, 'sizes': [4, 4]}, 3)
    """
    return {**asdict(given), "sizes": [*given.sizes]} if isinstance(given, Interleaved) else given


def rows_of_parts(out: int, split: GivenSplit) -> Interleaved:
    """Any split of the rows of a matrix, in one form: where the rows of each part stand together there is one head.

    Args:
        out: the rows of the matrix.
        split: as a user gives it or a group stores it.

    Raises:
        ValueError: the parts are not the rows of the matrix.

    Example:
        >>> rows_of_parts(96, 3), rows_of_parts(64, (32, 16, 16))
        (Interleaved(heads=1, sizes=(32, 32, 32)), Interleaved(heads=1, sizes=(32, 16, 16)))
    """
    parts = split_of(split)
    if isinstance(parts, Interleaved):
        if parts.rows != out:
            raise ValueError(
                f"split must have as many rows as the matrix, which has {out}; got {parts!r}, whose heads times sum "
                f"of sizes is {parts.rows}. Give the rows of each part in one head, and the number of heads."
            )
        return parts
    sizes = (out // max(parts, 1),) * parts if isinstance(parts, int) else parts
    if not sizes or min(sizes) < 1 or sum(sizes) != out:
        raise ValueError(
            f"split must be a number that divides the {out} output rows of the matrix, or a list of sizes whose sum "
            f"they are; got {split!r}. For q, k and v in one projection of equal heads give 3."
        )
    return Interleaved(1, sizes)


def part_shapes(shape: tuple[int, ...], view: MatrixView, split: GivenSplit | None) -> list[tuple[int, ...]]:
    """The shapes of the matrices of a parameter, one for each run of equal parts: `[*batch, parts, rows, in]`.

    Without a split it is the one shape `[*batch, out, in]`.

    Args:
        shape: of the parameter.
        view: how it stores its matrices.
        split: as a user gives it or a group stores it.

    Raises:
        ValueError: the parts are not the rows of the matrix.

    Example:
        >>> part_shapes((96, 32), "linear", 3), part_shapes((64, 32), "linear", (32, 16, 16))
        ([(3, 32, 32)], [(1, 32, 32), (2, 16, 32)])
        >>> part_shapes((64, 32), "linear", Interleaved(4, (8, 4, 4)))
        [(1, 32, 32), (2, 16, 32)]
    """
    *batch, out, inputs = matrix_shape(shape, view)
    if split is None:
        return [(*batch, out, inputs)]
    parts = rows_of_parts(out, split)
    return [(*batch, count, parts.heads * size, inputs) for count, size in _equal_parts(parts.sizes)]


def part_of_row(parts: Interleaved) -> list[int]:
    """The number of the part that each row belongs to.

    Example:
        >>> part_of_row(Interleaved(2, (2, 1)))
        [0, 0, 1, 0, 0, 1]
    """
    return [number for number, size in enumerate(parts.sizes) for _ in range(size)] * parts.heads


def _equal_parts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of equal parts: how many, and of which size."""
    return [(len(list(run)), size) for size, run in groupby(sizes)]


def state_name(name: str, run: int) -> str:
    """Under which name a split parameter keeps the state of a run of parts."""
    return f"{name}.{run}"


def parts_of_state(name: str, parts: Interleaved) -> slice:
    """Of which parts a state holds something, by its name.

    Args:
        name: `NAME.run`.
        parts: of the parameter.

    Example:
        >>> parts_of_state("second_momentum_buffer.1", Interleaved(1, (32, 16, 16)))
        slice(1, 3, None)
    """
    counts = [count for count, _ in _equal_parts(parts.sizes)]
    number = int(name.rpartition(".")[2])
    first = sum(counts[:number])
    return slice(first, first + counts[number])


def _names(state: State, run: int) -> list[str]:
    """The names of what is kept for a run, as its bracket knows them."""
    suffix = state_name("", run)
    return [name.removesuffix(suffix) for name in state if name.endswith(suffix)]


def _runs(matrix: Tensor, parts: Interleaved) -> list[Tensor]:
    """Views `[..., count, heads, size, in]` of matrices `[..., out, in]`, one for each run of equal parts."""
    runs = _equal_parts(parts.sizes)
    by_head = torch.unflatten(matrix, -2, (parts.heads, sum(parts.sizes)))
    pieces = torch.split(by_head, [count * size for count, size in runs], dim=-2)
    return [torch.unflatten(piece, -2, run).transpose(-4, -3) for piece, run in zip(pieces, runs, strict=True)]


def parts_of_matrix(matrix: Tensor, split: GivenSplit | None) -> list[Tensor]:
    """The parts of matrices as matrices of their own, a stack for each run of equal parts.

    Args:
        matrix: `[*batch, out, in]`.
        split: as a user gives it or a group stores it.

    Returns:
        `[*batch, parts, rows, in]` each; without a split the matrix as it is.

    Example:
        >>> [part.shape for part in parts_of_matrix(torch.zeros(64, 32), (32, 16, 16))]
        [torch.Size([1, 32, 32]), torch.Size([2, 16, 32])]
    """
    if split is None:
        return [matrix]
    return [run.flatten(-3, -2) for run in _runs(matrix, rows_of_parts(matrix.shape[-2], split))]


def split_bracket(brackets: Sequence[Bracket], view: MatrixView, shape: tuple[int, ...], split: GivenSplit) -> Bracket:
    """One bracket for a parameter, from one for each run of its equal parts.

    Args:
        brackets: for stacks `[stack, *batch, parts, rows, in]`, as `part_shapes` gives them.
        view: how the parameter stores its matrices.
        shape: of the parameter.
        split: as a user gives it or a group stores it.
    """
    parts = rows_of_parts(matrix_shape(shape, view)[-2], split)

    def run(direction: Tensor, state: State, powers: Tensor | None) -> tuple[Tensor, State]:
        matrix = matrix_view(direction, view, stacked=True)
        updates = torch.empty_like(matrix)
        adapted: State = {}
        runs = zip(brackets, _runs(matrix, parts), _runs(updates, parts), strict=True)
        for index, (bracket, piece, place) in enumerate(runs):
            own = {name: state[state_name(name, index)] for name in _names(state, index)}
            update, new = bracket(piece.flatten(-3, -2).contiguous(), own, powers)
            place.copy_(update.view_as(place))
            adapted |= {state_name(name, index): kept for name, kept in new.items()}
        return undo_matrix_view(updates, view, shape), adapted

    return run
