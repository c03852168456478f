"""`htmuon route`: which parameters of an architecture are matrices, without its weights."""

import csv
import dataclasses
import io
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tyro
from rich.console import Console
from rich.text import Text

import htmuon
from htmuon._files import write_json, write_text
from htmuon._typing import MatrixView
from htmuon.cli.architectures import Architecture, find
from htmuon.cli.arguments import parse
from htmuon.recipes import RECIPES
from htmuon.reporting.tables import plain_table, rich_table
from htmuon.routing.kinds import KindRates, rates_by_kind
from htmuon.routing.routes import COLUMNS, Route, Routing
from htmuon.routing.routing import Parts, SplitRules
from htmuon.routing.split import split_setting
from htmuon.training.run_config import RunConfig

# The columns of the listing that are words.
WORDS = (*COLUMNS, "kind")


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
      htmuon route llama --lr-scale kinds
      htmuon route vit_base_patch16_224 --lr-scale up=2 "*.fc2.*=0.35"

    Attributes:
        name: what to build; LIBRARY:NAME looks in one library alone.
        spectral: patterns that force parameters to the spectral side, such as "*.experts.*"; PATTERN=VIEW says how they
            are stored.
        adamw: patterns that force parameters to AdamW.
        split: how fused weights are taken apart: auto, none, or patterns with their parts: "*.qkv.weight=3",
            "*.qkv.weight=4096,1024,1024" or, where the rows of 12 heads take turns, "*.qkv.weight=12x64,64,64".
        lr_scale: factors of the learning rate, shown beside each matrix: kinds, for the table of rates by kind, or
            KIND=FACTOR and PATTERN=FACTOR.
        every: give each parameter its own line.
        csv: write a line for each parameter into this file.
        json: write everything into this file.
    """

    name: tyro.conf.Positional[str]
    spectral: tuple[str, ...] = ()
    adamw: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    lr_scale: tuple[str, ...] = ()
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
    with _said():
        routing = htmuon.route(model, **choices)
        factors = rates_by_kind(_lr_scale(given.lr_scale), routing.kinds) if given.lr_scale else None
    listing = Listing(routing, factors)
    _show(f"{type(model).__name__} of {architecture.library}", listing, every=given.every)
    if given.csv is not None:
        write_text(_in_a_folder(given.csv), _csv(listing))
    if given.json is not None:
        command = shlex.join(["htmuon", "route", *arguments])
        write_json(_in_a_folder(given.json), _everything(architecture, listing, command))
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


@contextmanager
def _said() -> Iterator[None]:
    """Print warnings as messages."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for warning in said:
        print(f"htmuon: warning: {warning.message}", file=sys.stderr)


@dataclass(frozen=True)
class Listing:
    """What is shown of a model.

    Attributes:
        routing: where its parameters go.
        factors: of the learning rate, of the matrices that have one; None where nobody asked for them.
    """

    routing: Routing
    factors: Mapping[str, float] | None

    @property
    def heads(self) -> tuple[str, ...]:
        """Of `cells`."""
        *first, reason = COLUMNS
        return (*first, "kind", *(() if self.factors is None else ("lr factor",)), reason)

    def cells(self) -> list[tuple[str, ...]]:
        """One row for each parameter."""
        kinds, rows = self.routing.kinds, []
        for route in self.routing.routes:
            *first, reason = route.cells
            factor = self.factor(route)
            shown = () if self.factors is None else ("" if factor is None else f"{factor:g}",)
            rows.append((*first, kinds.get(route.name) or "", *shown, reason))
        return rows

    def factor(self, route: Route) -> float | None:
        """Of a matrix; None for other parameters and where nobody asked."""
        return None if self.factors is None or route.view is None else self.factors.get(route.name, 1.0)


def _show(title: str, listing: Listing, *, every: bool) -> None:
    heads, rows = listing.heads, listing.cells()
    if not every:
        heads, rows = (heads[0], "count", *heads[1:]), _alike(rows)
    console = Console(file=sys.stdout, highlight=False)
    print(title)
    if console.is_terminal:
        console.print(rich_table(heads, rows, words=WORDS))
    else:
        print(plain_table(heads, rows, words=WORDS))
    for line in summary(listing.routing):
        console.print(Text(line), soft_wrap=True)


def _alike(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows of the listing with how many parameters they stand for: those whose names differ by numbers alone."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, *rest in rows:
        found.setdefault((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), *rest), []).append(name)
    return [
        (names[0] if len(names) == 1 else common, str(len(names)), *rest) for (common, *rest), names in found.items()
    ]


def _lr_scale(given: Sequence[str]) -> KindRates:
    """The table of rates by kind, or factors by kind or pattern."""
    if list(given) == ["kinds"]:
        return "kinds"
    factors = {}
    for word in given:
        key, _, factor = word.rpartition("=")
        try:
            factors[key] = float(factor)
        except ValueError:
            key = ""
        if not key:
            raise ValueError(
                f"lr_scale must be kinds, KIND=FACTOR or PATTERN=FACTOR; got {word!r}. Write query=2, say."
            )
    return factors


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


def _rows(listing: Listing) -> list[dict[str, Any]]:
    kinds = listing.routing.kinds
    return [
        {
            "parameter": route.name,
            "shape": list(route.parameter.shape),
            "optimizer": "AdamW" if route.view is None else "spectral",
            "view": route.view,
            "split": split_setting(route.split),
            "kind": kinds.get(route.name),
            **({} if listing.factors is None else {"lr_factor": listing.factor(route)}),
            "reason": route.reason,
        }
        for route in listing.routing.routes
    ]


def _everything(architecture: Architecture, listing: Listing, command: str) -> dict[str, Any]:
    routing = listing.routing
    other = routing.largest_other
    return {
        "command": command,
        "version": htmuon.__version__,
        "library": architecture.library,
        "name": architecture.name,
        "parameters": routing.parameters,
        "spectral_parameters": routing.spectral_parameters,
        "largest_other": None if other is None else other.name,
        "routes": _rows(listing),
    }


def _csv(listing: Listing) -> str:
    text = io.StringIO()
    rows = _rows(listing)
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "shape": "x".join(map(str, row["shape"]))} for row in rows)
    return text.getvalue()
