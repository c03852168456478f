"""Warnings that point at the line of the user, however deep in the library they are made."""

import sys
import warnings
from itertools import count

# Packages whose frames stand between: torch wraps constructors and steps of optimizers.
INSIDE = ("htmuon", "torch")


def warn(message: str) -> None:
    """A UserWarning at the nearest line outside of this library and torch.

    Example:
        >>> with warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     warn("take care")
        >>> said[0].category.__name__, str(said[0].message)
        ('UserWarning', 'take care')
    """
    for level in count(1):
        frame = sys._getframe(level)
        if frame.f_back is None or frame.f_globals.get("__name__", "").partition(".")[0] not in INSIDE:
            warnings.warn(message, stacklevel=level + 1)
            return
