"""Imports of libraries that come with an extra, with an error that names the remedy."""

import importlib
from types import ModuleType


def require(module: str, extra: str = "train") -> ModuleType:
    """Import a library that comes with an extra.

    Args:
        module: the dotted name, such as `"safetensors.torch"`.
        extra: of this package.

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
            f'this needs {module.partition(".")[0]}, which is not installed: pip install "htmuon[{extra}]"'
        ) from error
