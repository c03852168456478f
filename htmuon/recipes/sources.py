"""The task of a run, chosen by its settings."""

from htmuon.recipes.config import RunConfig
from htmuon.recipes.llm.stream_config import StreamConfig
from htmuon.recipes.llm.stream_task import StreamSource
from htmuon.recipes.llm.task import LanguageSource
from htmuon.recipes.task import TaskSource
from htmuon.recipes.vision.config import ImageDataConfig, ImageStreamConfig
from htmuon.recipes.vision.stream_task import ImageStreamSource
from htmuon.recipes.vision.task import ImageSource


def open_source(config: RunConfig) -> TaskSource:
    """Read the data that the settings name.

    Raises:
        ValueError: it cannot be read, or is not what the task needs.
    """
    if isinstance(config.data, ImageDataConfig):
        return ImageSource(config)
    if isinstance(config.data, ImageStreamConfig):
        return ImageStreamSource(config)
    return StreamSource(config) if isinstance(config.data, StreamConfig) else LanguageSource(config)
