"""What the names of a model's parameters say: depth, type of module, and what a wrapper put in front."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from htmuon.routing.heads import HEAD_NAMES, OUTER_HEAD_NAMES

# What wrappers put before and between the names of the parameters inside.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def natural_key(name: str) -> list[str | int]:
    """A key that sorts numbers within names by their value.

    Example:
        >>> sorted(["layers.10.w", "layers.2.w", "head"], key=natural_key)
        ['head', 'layers.2.w', 'layers.10.w']
    """
    # Texts and numbers take turns, so that keys are compared like with like.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


EMBEDDING, HEAD = "embedding", "head"
# Tables of words and positions whose names don't say so.
_TABLES = frozenset({"wte", "wpe", "shared"})


@dataclass(frozen=True)
class ModulePlace:
    """Where a matrix sits.

    Attributes:
        depth: number of its block; None outside of blocks.
        module_type: its name within the block, with `*` for numbers; "embedding" or "head" for those.
    """

    depth: int | None
    module_type: str


def module_places(names: Iterable[str]) -> dict[str, ModulePlace]:
    """The place of each matrix of one model.

    A block is what the first number in a name counts. Where several things are counted (`encoder.0`, `decoder.0`), the
    blocks are numbered through, in the natural order of their names.

    Example:
        >>> names = ["embed.weight", "layers.0.mlp.up.weight", "layers.1.mlp.experts.7.w1.weight", "lm_head"]
        >>> found = module_places(names)
        >>> [(place.depth, place.module_type) for place in found.values()]
        [(None, 'embedding'), (0, 'mlp.up'), (1, 'mlp.experts.*.w1'), (None, 'head')]
    """
    split = {name: _split(name) for name in names}
    blocks = {(stem, number) for stem, number, _ in split.values() if number is not None}
    several = len({stem for stem, _ in blocks}) > 1
    order = sorted(blocks, key=lambda block: natural_key(f"{block[0]}.{block[1]}"))
    depths = {block: i if several else block[1] for i, block in enumerate(order)}
    return {
        name: ModulePlace(None if number is None else depths[stem, number], _module_type(stem, number, rest))
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


def common_prefixes(first: Collection[str], second: Collection[str]) -> tuple[str, str]:
    """What to take off the names of each of two checkpoints so that most of them agree.

    Models with a head (`bert.encoder...`), DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) put
    something in front of all names.

    Example:
        >>> common_prefixes(["bert.layer.0.w", "head.w"], ["layer.0.w"])
        ('bert.', '')
        >>> common_prefixes(["a.w", "b.w"], ["b.w"])
        ('', '')
    """
    choices = [(prefix, "") for prefix in _prefixes(first)] + [("", prefix) for prefix in _prefixes(second)]
    return max([("", ""), *choices], key=lambda pair: _agreeing(first, second, *pair))


def _agreeing(first: Collection[str], second: Collection[str], of_first: str, of_second: str) -> tuple[int, int]:
    """How many names agree; of equal counts the shorter prefix is better."""
    names = {name.removeprefix(of_first) for name in first} & {name.removeprefix(of_second) for name in second}
    return len(names), -len(of_first + of_second)


def _prefixes(names: Collection[str]) -> list[str]:
    """The first one, two and three parts of names, with the dot behind them."""
    split = [name.split(".") for name in names]
    found = {".".join(parts[:n]) + "." for parts in split for n in (1, 2, 3) if len(parts) > n}
    return sorted(prefix for prefix in found if not any(part.isdecimal() for part in prefix.split(".")))
