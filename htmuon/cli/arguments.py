"""Flags from settings: tyro reads the dataclasses, and an error is one line."""

import contextlib
import dataclasses
import inspect
import io
import re
from collections.abc import Collection, Sequence
from typing import Any, TypeVar, cast, get_type_hints

import tyro

from htmuon.recipes import RECIPES
from htmuon.training.run_config import RunConfig

T = TypeVar("T")


def recipe_of(arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The settings of the recipe that the arguments begin with, and the other arguments.

    With a request for help and no recipe, it is the first recipe.

    Raises:
        ValueError: no recipe is named, or it is unknown.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"the name of a recipe must come first; choose one of {', '.join(RECIPES)}.")
    name = arguments[0] if named else next(iter(RECIPES))
    return RECIPES[name](), list(arguments[1:] if named else arguments)


def parse(kind: type[T], run: RunConfig, arguments: Sequence[str], *, prog: str, without: Collection[str]) -> T:
    """Make a `kind`, extended by the fields of a run, from command-line arguments.

    Args:
        kind: a frozen keyword-only dataclass with the command's own settings; its docstring is the help.
        run: defaults of the run's fields.
        arguments: what was typed after the recipe.
        prog: the command, for help and errors.
        without: fields of the run that the command sets itself.

    Raises:
        ValueError: an argument is unknown, missing or not valid; the message is one line.
        SystemExit: help was asked for and printed.
    """
    # `--data`, `--text` and `--images` are what people type; the setting's full name is `--data.path`.
    spelled = [re.sub(r"^--(data|text|images)(?==|$)", "--data.path", argument) for argument in arguments]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(_extended(kind, run, without), args=spelled, prog=prog, description=_description(kind))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_one_line(errors.getvalue())} (see {prog} --help)") from None


def run_settings(arguments: object, run: RunConfig) -> RunConfig:
    """`run` with the fields that `arguments` has."""
    names = [field.name for field in dataclasses.fields(RunConfig) if hasattr(arguments, field.name)]
    return dataclasses.replace(run, **{name: getattr(arguments, name) for name in names})


def _extended(kind: type[T], run: RunConfig, without: Collection[str]) -> type[T]:
    # A recipe's data and model are of one kind each, though a run's can be of several.
    hints = get_type_hints(RunConfig) | {name: type(getattr(run, name)) for name in ("data", "model")}
    fields: list[tuple[str, Any, Any]] = [
        (field.name, hints[field.name], dataclasses.field(default=getattr(run, field.name)))
        for field in dataclasses.fields(RunConfig)
        if field.name not in without
    ]
    if not fields:
        return kind  # with the help of its own flags, also of those that a run has under the same name
    made = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)
    made.__doc__ = RunConfig.__doc__  # tyro takes the help of each flag from here
    return cast(type[T], made)


def _description(kind: type[object]) -> str:
    """The docstring without the part on the attributes, which is the help of the flags."""
    return (inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0]


def _one_line(box: str) -> str:
    """The message of the box that tyro draws around an error: its first part, and what it thinks was meant."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("\u2502\u256d\u256e\u256f\u2570 ") for line in plain.strip().splitlines()]
    # The first line is the title; lines of dashes, which are ASCII or not by the terminal, divide the rest into parts.
    parts = re.split(r"^[-\u2500]{5,}$", "\n".join(lines[1:]), flags=re.MULTILINE)
    message = next(part for part in parts if part.strip())
    hint = re.search(r"Perhaps you meant:\s+(--\S+)", "\n".join(parts))
    return " ".join(message.split()) + (f" Perhaps you meant {hint[1]}?" if hint else "")
