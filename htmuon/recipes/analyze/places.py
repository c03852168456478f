"""Where a matrix sits in its model, read from its name: how deep, and what type of module."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from htmuon.analysis.checkpoints import natural_key
from htmuon.optim.roles import HEAD_NAMES, OUTER_HEAD_NAMES

EMBEDDING, HEAD = "embedding", "head"
# Tables of words and positions whose names don't say so.
_TABLES = frozenset({"wte", "wpe", "shared"})


@dataclass(frozen=True)
class Place:
    """Where a matrix sits.

    Attributes:
        depth: number of its block; None outside of blocks.
        module_type: its name within the block, with `*` for numbers; "embedding" or "head" for those.
    """

    depth: int | None
    module_type: str


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of each matrix of one model.

    A block is what the first number in a name counts. Where several things are counted (`encoder.0`, `decoder.0`), the
    blocks are numbered through, in the natural order of their names.

    Example:
        >>> found = places(["embed.weight", "layers.0.mlp.up.weight", "layers.1.mlp.experts.7.w1.weight", "lm_head"])
        >>> [(place.depth, place.module_type) for place in found.values()]
        [(None, 'embedding'), (0, 'mlp.up'), (1, 'mlp.experts.*.w1'), (None, 'head')]
    """
    split = {name: _split(name) for name in names}
    blocks = {(stem, number) for stem, number, _ in split.values() if number is not None}
    several = len({stem for stem, _ in blocks}) > 1
    order = sorted(blocks, key=lambda block: natural_key(f"{block[0]}.{block[1]}"))
    depths = {block: i if several else block[1] for i, block in enumerate(order)}
    return {
        name: Place(None if number is None else depths[stem, number], _module_type(stem, number, rest))
        for name, (stem, number, rest) in split.items()
    }


def _split(name: str) -> tuple[str, int | None, list[str]]:
    """What stands before the first number, that number, and the parts behind it, or all parts if there is none."""
    bare = re.sub(r"\[(\d+)\]$", r".\1", name)  # the place in a stack is a number like others
    parts = [part for part in re.sub(r"\.weight(?=$|\.\d+$)", "", bare).split(".") if part]
    at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    if at is None:
        return "", None, parts
    return ".".join(parts[:at]), int(parts[at]), parts[at + 1 :]


def _module_type(stem: str, number: int | None, rest: list[str]) -> str:
    parts = [*stem.split("."), *rest]
    if any("embed" in part or part in _TABLES for part in parts):
        return EMBEDDING
    outer = parts if number is None else stem.split(".")[-1:]
    if HEAD_NAMES & set(parts) or any(map(_names_a_head, outer)):
        return HEAD
    shown = ["*" if part.isdecimal() else part for part in rest]
    return ".".join(shown) or stem or "weight"


def _names_a_head(part: str) -> bool:
    """Whether a part of a name outside of blocks names the head; `conv_head` is the last layer before it."""
    return part.lstrip("_") in OUTER_HEAD_NAMES or (part.endswith("_head") and "conv" not in part)
