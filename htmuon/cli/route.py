"""`htmuon route`: which parameters of an architecture are matrices, without its weights."""

import csv
import dataclasses
import io
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tyro
from rich.console import Console
from rich.text import Text
from torch import nn

import htmuon
from htmuon._files import write_json, write_text
from htmuon._typing import MatrixView
from htmuon.cli.architectures import Architecture, find
from htmuon.cli.arguments import parse
from htmuon.recipes import RECIPES
from htmuon.reporting.tables import plain_table, rich_table
from htmuon.routing.routes import COLUMNS, Route, Routing
from htmuon.routing.routing import Parts, SplitRules
from htmuon.routing.split import split_setting
from htmuon.training.run_config import RunConfig

# Of the listing: names, and the number of parameters that a line stands for.
HEADS = (COLUMNS[0], "count", *COLUMNS[1:])


@dataclass(frozen=True, kw_only=True)
class RouteArguments:
    """List which parameters of an architecture are matrices for the spectral side, and why the others are not.

    NAME is a model folder of transformers (its config.json is enough), a model type or model class of transformers, or
    a model of timm or torchvision. The model is built on the meta device from its configuration: nothing is downloaded
    and no weight is allocated. Layers that differ by their numbers alone share a line.

    Examples:
      htmuon route llama
      htmuon route gpt_oss --split auto
      htmuon route Qwen3-0.6B/ --csv routes.csv
      htmuon route vit_base_patch16_224 --adamw "*.qkv.*"
      htmuon route torchvision:resnet50
      htmuon route BertForSequenceClassification --split "*.query.weight=12" --every

    Attributes:
        name: what to build; LIBRARY:NAME looks in one library alone.
        spectral: patterns that force parameters to the spectral side, such as "*.experts.*"; PATTERN=VIEW says how they
            are stored.
        adamw: patterns that force parameters to AdamW.
        split: how fused weights are taken apart: auto, none, or patterns with their parts: "*.qkv.weight=3",
            "*.qkv.weight=4096,1024,1024" or, where the rows of 12 heads take turns, "*.qkv.weight=12x64,64,64".
        every: give each parameter its own line.
        csv: write a line for each parameter into this file.
        json: write everything into this file.
    """

    name: tyro.conf.Positional[str]
    spectral: tuple[str, ...] = ()
    adamw: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    every: bool = False
    csv: Path | None = None
    json: Path | None = None


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments after `route`."""
    everything = {field.name for field in dataclasses.fields(RunConfig)}
    recipe = next(iter(RECIPES.items()))[1]()
    given = parse(RouteArguments, recipe, arguments, prog="htmuon route", without=everything)
    choices: dict[str, Any] = {"spectral": _spectral(given.spectral), "adamw": given.adamw}
    if given.split:
        choices["split"] = _split(given.split)
    architecture = find(given.name)
    model = architecture.build()
    routing = _routing(model, choices)
    _show(f"{type(model).__name__} of {architecture.library}", routing, every=given.every)
    if given.csv is not None:
        write_text(_in_a_folder(given.csv), _csv(routing))
    if given.json is not None:
        command = shlex.join(["htmuon", "route", *arguments])
        write_json(_in_a_folder(given.json), _everything(architecture, routing, command))
    for path in filter(None, (given.csv, given.json)):
        print(f"written: {path}")


def _in_a_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def summary(routing: Routing) -> list[str]:
    """What share of the parameters is on the spectral side, and the largest that is not.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> for line in summary(htmuon.route(model)):
        ...     print(line)
        16 of 101 parameters (15.8 %) are matrices on the spectral side.
        The largest parameter that is not: 0.weight, 36 (35.6 %): embedding.
    """
    total, other = routing.parameters, routing.largest_other
    lines = [
        f"{routing.spectral_parameters:,} of {total:,} parameters ({percent(routing.spectral_parameters, total)}) are "
        "matrices on the spectral side."
    ]
    if other is not None:
        count = other.parameter.numel()
        lines.append(
            f"The largest parameter that is not: {other.name}, {count:,} ({percent(count, total)}): {other.reason}."
        )
    return lines


def percent(count: int, total: int) -> str:
    """A share in percent.

    Example:
        >>> percent(1, 8)
        '12.5 %'
    """
    return f"{100 * count / max(total, 1):.1f} %"


def _routing(model: nn.Module, choices: dict[str, Any]) -> Routing:
    """The routing, with its warnings as messages."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        routing = htmuon.route(model, **choices)
    for warning in said:
        print(f"htmuon: warning: {warning.message}", file=sys.stderr)
    return routing


def _show(title: str, routing: Routing, *, every: bool) -> None:
    heads, rows = (COLUMNS, [route.cells for route in routing.routes]) if every else (HEADS, _alike(routing))
    console = Console(file=sys.stdout, highlight=False)
    print(title)
    if console.is_terminal:
        console.print(rich_table(heads, rows, words=COLUMNS))
    else:
        print(plain_table(heads, rows, words=COLUMNS))
    for line in summary(routing):
        console.print(Text(line), soft_wrap=True)


def _alike(routing: Routing) -> list[tuple[str, ...]]:
    """The cells of the listing with how many parameters they stand for: those whose names differ by numbers alone."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in (route.cells for route in routing.routes):
        found.setdefault((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), *rest), []).append(name)
    return [
        (names[0] if len(names) == 1 else common, str(len(names)), *rest) for (common, *rest), names in found.items()
    ]


def _spectral(given: Sequence[str]) -> Sequence[str] | dict[str, MatrixView]:
    """Patterns, or a mapping where views are named."""
    if not any("=" in word for word in given):
        return given
    without = [word for word in given if "=" not in word]
    if without:
        raise ValueError(
            f"either every spectral pattern or none must have a view; {without[0]!r} has none. Write =linear."
        )
    return {pattern: cast(MatrixView, view) for pattern, _, view in (word.partition("=") for word in given)}


def _split(given: Sequence[str]) -> SplitRules:
    """Parts for all parameters, or by pattern."""
    if list(given) in (["auto"], ["none"]):
        return "auto" if given[0] == "auto" else None
    return {word.rpartition("=")[0]: _parts(word) for word in given}


def _parts(word: str) -> Parts:
    """The parts behind the equals sign of `PATTERN=PARTS`."""
    pattern, _, parts = word.rpartition("=")
    if pattern and parts in ("auto", "none"):
        return "auto" if parts == "auto" else None
    found = re.fullmatch(r"(?:(\d+)x)?(\d+(?:,\d+)*)", parts)
    if not pattern or not found:
        raise ValueError(
            "split must be auto, none or PATTERN=PARTS with parts such as 3, 4096,1024,1024 or 12x64,64,64; got "
            f"{word!r}. Write '*.qkv.weight=3', say."
        )
    sizes = tuple(map(int, found[2].split(",")))
    if found[1]:
        return htmuon.Interleaved(int(found[1]), sizes)
    return sizes if len(sizes) > 1 else sizes[0]


def _row(route: Route) -> dict[str, Any]:
    return {
        "parameter": route.name,
        "shape": list(route.parameter.shape),
        "optimizer": "AdamW" if route.view is None else "spectral",
        "view": route.view,
        "split": split_setting(route.split),
        "reason": route.reason,
    }


def _everything(architecture: Architecture, routing: Routing, command: str) -> dict[str, Any]:
    other = routing.largest_other
    return {
        "command": command,
        "version": htmuon.__version__,
        "library": architecture.library,
        "name": architecture.name,
        "parameters": routing.parameters,
        "spectral_parameters": routing.spectral_parameters,
        "largest_other": None if other is None else other.name,
        "routes": [_row(route) for route in routing.routes],
    }


def _csv(routing: Routing) -> str:
    text = io.StringIO()
    rows = [_row(route) for route in routing.routes]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "shape": "x".join(map(str, row["shape"]))} for row in rows)
    return text.getvalue()
