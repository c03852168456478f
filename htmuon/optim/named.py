"""A slot's part as it is chosen: by a name, by a dict with settings, or as an object; and as a group holds it."""

from typing import Any, TypeVar

from htmuon._checks import plain
from htmuon._registry import Registry, unknown_name
from htmuon.linalg.parts import PartDict, as_dict, is_part, name_of, with_fields

T = TypeVar("T")


def part_of(registry: Registry[T], choice: Any) -> T:
    """The part that a name, a dict or an object stands for.

    Args:
        registry: of parts that can be called; its kind is the argument that takes them.
        choice: as given.

    Raises:
        TypeError: it is none of the three.
        ValueError: there is no such part, or it has no such setting.
    """
    kind = registry.kind
    if callable(choice):
        part: T = choice
        return part
    if not isinstance(choice, str | dict):
        raise TypeError(
            f"{kind} must be a name, a dict or an object; got {choice!r} of type {type(choice).__name__}. Pass "
            f"{next(iter(registry))!r}."
        )
    name = choice if isinstance(choice, str) else name_of(kind, choice)
    if name not in registry:
        raise unknown_name(kind, name, list(registry))
    return registry[name] if isinstance(choice, str) else with_fields(kind, registry[name], choice)


def setting_of(registry: Registry[Any], choice: Any) -> str | PartDict:
    """A part as a group and a file hold it: its name, or a dict where its settings are not the usual ones.

    Raises:
        TypeError: as `part_of`.
        ValueError: as `part_of`, or an object that is not registered.
    """
    if isinstance(choice, str):
        return choice
    part = part_of(registry, plain(choice) if isinstance(choice, dict) else choice)
    for name, usual in registry.items():
        if usual is part or usual == part:
            return name
        if is_part(part) and type(usual) is type(part):
            return as_dict(name, part)
    hint = (
        f"Pass {choice.__name__}()."
        if isinstance(choice, type)
        else f"Register it: @{registry.kind.upper()}S.register('name')."
    )
    raise ValueError(
        f"an object given as {registry.kind} must be registered in htmuon.optim.{registry.kind.upper()}S, to be saved; "
        f"got {choice!r}. {hint}"
    )
