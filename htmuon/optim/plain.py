"""Settings in Python's own types."""

from typing import Any

from torch import Tensor


def plain(value: Any) -> Any:
    """A setting in Python's own types: NumPy's numbers and arrays, 0-d tensors, and these in tuples, lists and dicts.

    A state_dict with others cannot be loaded with `weights_only=True`.

    Example:
        >>> import torch
        >>> plain((torch.tensor(0.5), 3))
        (0.5, 3)
    """
    if value is None or type(value) in (float, int, bool, str):
        return value
    if isinstance(value, dict):
        return {key: plain(of) for key, of in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(plain, value)) if type(value) in (tuple, list) else value
    of_numpy = type(value).__module__ == "numpy"
    return value.tolist() if of_numpy or (isinstance(value, Tensor) and value.ndim == 0) else value
