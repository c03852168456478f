"""A registry: the names by which users choose a part, and one sentence when a name is unknown."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def unknown_name(kind: str, name: object, known: list[str]) -> ValueError:
    """The error for a name that is not in a list of choices: what was given, what exists, what was probably meant."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return ValueError(f"{kind} must be one of {', '.join(known)}; got {name!r}.{hint}")


class Registry(Generic[T]):
    """Maps names to parts of one kind; a part registers itself where it is defined.

    Example:
        >>> shapes: Registry[type] = Registry("shape")
        >>> @shapes.register("square")
        ... class Square: ...
        >>> shapes["square"].__name__, list(shapes)
        ('Square', ['square'])
        >>> shapes["sqare"]
        Traceback (most recent call last):
        ...
        ValueError: shape must be one of square; got 'sqare'. Did you mean 'square'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that stores the decorated part under `name`, in place of an older one of that name."""

        def store(part: T) -> T:
            self._parts[name] = part
            return part

        return store

    def __getitem__(self, name: str) -> T:
        if name not in self._parts:
            raise unknown_name(self.kind, name, list(self._parts))
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def items(self) -> list[tuple[str, T]]:
        """The registered (name, part) pairs, in the order of registration."""
        return list(self._parts.items())


def import_all(package: str) -> None:
    """Import every module of a room, so that the parts in it register themselves: a new part is one new file.

    Args:
        package: the room's name; what is imported already stays as it is.
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
