"""The task of a run, chosen by its settings."""

from htmuon.recipes.config import RunConfig
from htmuon.recipes.llm.task import LanguageSource
from htmuon.recipes.task import TaskSource
from htmuon.recipes.vision.config import ImageDataConfig
from htmuon.recipes.vision.task import ImageSource


def open_source(config: RunConfig) -> TaskSource:
    """Read the data that the settings name.

    Raises:
        ValueError: it cannot be read, or is not what the task needs.
    """
    return ImageSource(config) if isinstance(config.data, ImageDataConfig) else LanguageSource(config)
