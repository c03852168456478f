"""The recipes by name."""

from collections.abc import Callable

from htmuon._registry import Registry
from htmuon.training.run_config import RunConfig

RECIPES: Registry[Callable[[], RunConfig]] = Registry("recipe")
