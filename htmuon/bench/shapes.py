"""Which matrices are benched: those of a model, or shapes that a user writes."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

import htmuon
from htmuon._registry import unknown_name
from htmuon.recipes import RECIPES
from htmuon.routing.views import matrix_shape
from htmuon.training.run_config import ModelConfig, RunConfig


@dataclass(frozen=True)
class Shape:
    """So many matrices `[rows, columns]`.

    Example:
        >>> str(Shape(512, 1376, 8))
        '512x1376*8'
    """

    rows: int
    columns: int
    count: int = 1

    @property
    def size(self) -> str:
        """The shape of one of them."""
        return f"{self.rows}x{self.columns}"

    def __str__(self) -> str:
        return self.size if self.count == 1 else f"{self.size}*{self.count}"


@dataclass(frozen=True)
class Model:
    """The hidden matrices of a model.

    Attributes:
        name: of the recipe, or "" for shapes of the user's own.
        shapes: its matrices, or those of its first layers.
        layers: how many of its layers these are; None for shapes of the user's own.
        all_layers: how many it has.
    """

    name: str
    shapes: tuple[Shape, ...]
    layers: int | None = None
    all_layers: int | None = None

    def describe(self) -> str:
        """One clause: which matrices, and of how much of the model."""
        matrices = sum(shape.count for shape in self.shapes)
        shown = f"{matrices} hidden matrices ({', '.join(map(str, self.shapes))})"
        if self.layers is None:
            return shown
        part = "" if self.layers == self.all_layers else f"the first {self.layers} of {self.all_layers} layers of "
        return f"{shown} of {part}{self.name}"


def known_models() -> list[str]:
    """Every name that `model_matrices` takes."""
    return list(_layered_recipes())


def model_matrices(name: str, layers: int | None = None) -> Model:
    """The hidden matrices of a language recipe's model; no weight is allocated.

    Args:
        name: one of `known_models()`.
        layers: only those of so many layers.

    Raises:
        ValueError: the name is unknown, or the model has not so many layers.
    """
    recipes = _layered_recipes()
    if name not in recipes:
        raise unknown_name("the recipe", name, known_models())
    model: Any = recipes[name].model
    chosen = model.num_layers if layers is None else layers
    if not 1 <= chosen <= model.num_layers:
        raise ValueError(f"layers must be between 1 and the {model.num_layers} layers of {name}; got {layers}.")
    shapes = _hidden_shapes(replace(model, num_layers=chosen), recipes[name].data.sizes)
    return Model(name, shapes, layers=chosen, all_layers=model.num_layers)


def _layered_recipes() -> dict[str, RunConfig]:
    """Those whose model is a stack of equal layers, and can be built without reading the data."""
    made = {name: recipe() for name, recipe in RECIPES.items()}
    return {name: run for name, run in made.items() if run.data.sizes and hasattr(run.model, "num_layers")}


def _hidden_shapes(config: ModelConfig, sizes: dict[str, int]) -> tuple[Shape, ...]:
    with torch.device("meta"):
        model = config.build_model(**sizes, seed=0)
    counts: Counter[tuple[int, int]] = Counter()
    for route in htmuon.route(model).routes:
        if route.view is not None:
            *batch, rows, columns = matrix_shape(tuple(route.parameter.shape), route.view)
            counts[rows, columns] += math.prod(batch)
    return tuple(Shape(*size, count) for size, count in counts.items())


def own_matrices(texts: Iterable[str]) -> Model:
    """The shapes that a user wrote, as ROWSxCOLUMNS or ROWSxCOLUMNS*COUNT.

    Raises:
        ValueError: a text is not a shape.

    Example:
        >>> own_matrices(["512x1376", "512x512*4"]).describe()
        '5 hidden matrices (512x1376, 512x512*4)'
    """
    counts: Counter[tuple[int, int]] = Counter()
    for text in texts:
        match = re.fullmatch(r"(\d+)x(\d+)(?:\*(\d+))?", text)
        numbers = [int(number) for number in match.groups(default="1")] if match else [0]
        if min(numbers) < 1 or min(numbers[:2]) < 2:
            raise ValueError(
                f"a shape must be written as ROWSxCOLUMNS or ROWSxCOLUMNS*COUNT, with two rows and columns or more, "
                f"such as 512x1376*4; got {text!r}."
            )
        rows, columns, count = numbers
        counts[rows, columns] += count
    return Model("", tuple(Shape(*size, count) for size, count in counts.items()))
