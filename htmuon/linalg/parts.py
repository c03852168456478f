"""Parts that are frozen dataclasses as the plain dicts that parameter groups hold and files store, and back again."""

from collections.abc import Container
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

PartDict = dict[str, Any]
Part = TypeVar("Part")


def is_part(value: object) -> bool:
    """Whether a value is an object of a dataclass, whose fields say all of it."""
    return is_dataclass(value) and not isinstance(value, type)


def as_dict(name: str, part: Any, left_out: Container[str] = ()) -> PartDict:
    """`{"name": name, **fields}`; a dataclass in a field becomes a dict of its own fields.

    Args:
        name: under which the part is registered.
        part: a dataclass.
        left_out: fields that other settings hold.
    """
    return {"name": name, **{key: value for key, value in asdict(part).items() if key not in left_out}}


def name_of(kind: str, settings: PartDict) -> Any:
    """The name in such a dict; raises TypeError where there is none."""
    if "name" not in settings:
        raise TypeError(
            f"a dict given as {kind} must have the key 'name'; got {settings!r}. "
            f"Add it, or pass the name alone: {kind}='...'."
        )
    if not isinstance(settings["name"], str):
        raise TypeError(f"the name in a dict given as {kind} must be a string; got {settings['name']!r}.")
    return settings["name"]


def with_fields(kind: str, part: Part, settings: PartDict, left_out: Container[str] = ()) -> Part:
    """The registered part with the fields of such a dict.

    Args:
        kind: of the part, for the error.
        part: the registered one, which keeps the fields that the dict does not name.
        settings: with the name.
        left_out: fields that other settings hold.

    Raises:
        ValueError: the part has no such field.
    """
    given = {key: value for key, value in settings.items() if key != "name"}
    known = [field.name for field in fields(part) if field.name not in left_out] if is_dataclass(part) else []
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(
            f"{kind} {settings['name']!r} takes {', '.join(known) or 'no settings'}; got {', '.join(map(str, unknown))}"
            f"{' (the exponent is the setting power)' if left_out else ''}. Leave {unknown[0]!r} out."
        )
    return replace(part, **given) if given else part  # type: ignore[type-var]
