"""Tables that are stored otherwise than as an embedding, and what no decay is good for."""

import re
from fnmatch import fnmatchcase

from torch import Tensor, nn

RELATIVE_BIAS = re.compile(r"rel(ative)?_(pos|attention).*_bias")


def lookup_modules(model: nn.Module) -> set[nn.Module]:
    """Linear layers that are read as tables: relative position biases, as the LayoutLM family keeps them.

    Example:
        >>> encoder = nn.Module()
        >>> encoder.rel_pos_bias = nn.Linear(32, 12, bias=False)
        >>> lookup_modules(encoder) == {encoder.rel_pos_bias}
        True
    """
    return {
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and RELATIVE_BIAS.fullmatch(name.rpartition(".")[2])
    }


def is_vector_like(parameter: Tensor) -> bool:
    """Whether all sides but one are 1, as those of tokens and gains that are kept in the shape of what they meet.

    Example:
        >>> import torch
        >>> is_vector_like(torch.ones(1, 1, 8)), is_vector_like(torch.ones(2, 8))
        (True, False)
    """
    return sum(side != 1 for side in parameter.shape) < 2


def undecayed_names(model: nn.Module, names: list[str]) -> set[str]:
    """Those of the names that the model, or a model in it, lists in `no_weight_decay()`.

    Example:
        >>> class Net(nn.Module):
        ...     def no_weight_decay(self):
        ...         return {"tokens"}
        >>> undecayed_names(nn.ModuleDict({"net": Net()}), ["net.tokens", "net.head"])
        {'net.tokens'}
    """
    found: set[str] = set()
    for prefix, module in model.named_modules():
        listing = getattr(type(module), "no_weight_decay", None)
        if not callable(listing):
            continue
        try:
            given = list(listing(module))
        except (TypeError, NotImplementedError, AttributeError):  # another method of that name
            continue
        listed = {f"{prefix}.{name}" if prefix else name for name in given if isinstance(name, str)}
        patterns = [name for name in listed if "*" in name]
        found |= listed & set(names)
        found |= {name for name in names for pattern in patterns if fnmatchcase(name, pattern)}
    return found
