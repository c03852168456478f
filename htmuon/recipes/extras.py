"""Imports of the libraries that only the recipes need, with an error that names the remedy."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import a library that comes with the `train` extra.

    Args:
        module: the dotted name, such as `"safetensors.torch"`.

    Raises:
        ImportError: the library is not installed; the message names the extra.

    Example:
        >>> require("json").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f'htmuon.recipes needs {module.partition(".")[0]}, which is not installed: pip install "htmuon[train]"'
        ) from error
