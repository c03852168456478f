"""Which matrices of two checkpoints are the same one: those of equal names, up to what a wrapper puts in front."""

from collections.abc import Collection


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
