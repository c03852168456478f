"""Shell-style patterns over the names of a model's parameters: what they match, and what to say where they do not."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from htmuon._warnings import warn


def matching(name: str, patterns: Iterable[str]) -> list[str]:
    """The patterns that a name matches as a whole.

    Example:
        >>> matching("layers.0.mlp.weight", ["*.mlp.*", "mlp.*", "layers.?.*"])
        ['*.mlp.*', 'layers.?.*']
    """
    return [pattern for pattern in patterns if fnmatchcase(name, pattern)]


def check_patterns(argument: str, patterns: Iterable[str], names: Sequence[str], *, required: bool) -> None:
    """Raise if patterns are no list, or match nothing; warn if only some of them match nothing.

    A script for several models names parts that not each of them has. So one pattern that matches is enough, and where
    none is required, it is a warning that none matches.

    Args:
        argument: which they are of.
        patterns: over names.
        names: of all trainable parameters.
        required: whether one of the patterns, if there are any, has to match.

    Raises:
        TypeError: a single string.
        ValueError: none matches, and one is required to.
    """
    if isinstance(patterns, str):
        raise TypeError(f"{argument} must be a list of patterns; got the string {patterns!r}. Write [{patterns!r}].")
    patterns = list(patterns)
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    for pattern in idle:
        said = (
            f"{argument} pattern {pattern!r} matches no trainable parameter. Patterns are shell-style over whole "
            f"names: {nearest(pattern, names)}."
        )
        if required and len(idle) == len(patterns):
            raise ValueError(said)
        warn(said)


def nearest(pattern: str, names: Sequence[str]) -> str:
    """What is like a pattern that matches none of the names: a wider pattern that does, else the most similar name.

    Example:
        >>> nearest("*.gate.*", ["gate.weight", "up.weight"]), nearest("lm_heed", ["embed.weight", "lm_head.weight"])
        ("try '*gate*', which matches 'gate.weight'", "the most similar one is 'lm_head.weight'")
    """
    core = pattern.strip("*.")
    wider = f"*{core}*"
    found = [name for name in names if core and fnmatchcase(name, wider)]
    if found:
        return f"try {wider!r}, which matches {found[0]!r}"
    [similar] = difflib.get_close_matches(core, names, n=1, cutoff=0.0)
    return f"the most similar one is {similar!r}"
