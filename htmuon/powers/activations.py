"""What modules multiply their weights by: its Gram matrices, collected during the passes of one step."""

from collections.abc import Collection
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from htmuon.kernels import full_float32
from htmuon.routing.storage import stored_view

# Elements of the patches of images that are there at once.
TOGETHER = 2**22


class Activations:
    """Listens to the forward passes of a model until it is asked.

    Passes without gradients, as those of an evaluation, are left out; all others add up, so that those of a step with
    several batches are seen as one.

    Args:
        model: whose modules are listened to: `nn.Linear`, transformers' `Conv1D` and `nn.Conv2d` without groups.
        parameters: those weights that count.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> heard = Activations(layer, {layer.weight})
        >>> _ = layer(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        >>> heard.taken()[layer.weight]
        tensor([[1., 2.],
                [2., 5.]])
    """

    def __init__(self, model: nn.Module, parameters: Collection[Tensor]) -> None:
        self._grams: dict[Tensor, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for module in model.modules():
            weight = module._parameters.get("weight")  # not one that is made at each call
            if weight is not None and weight in parameters and _is_known(module, weight):
                self._handles.append(module.register_forward_pre_hook(partial(self._hear, weight)))

    def taken(self) -> dict[Tensor, Tensor]:
        """`A^T A`, `[in, in]`, float32, by weight, of those that took part; nothing is heard any more."""
        while self._handles:
            self._handles.pop().remove()
        return self._grams

    def __getstate__(self) -> dict[str, Any]:
        """What hooks on a copy of the model have of it, or on one that is stored: they hear nothing."""
        return {"_grams": {}, "_handles": []}

    def _hear(self, weight: Tensor, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._handles and torch.is_grad_enabled() and inputs and isinstance(inputs[0], Tensor):
            with torch.no_grad(), full_float32():
                found = _gram(module, inputs[0].detach())
                self._grams[weight] = self._grams[weight] + found if weight in self._grams else found


def _is_known(module: nn.Module, weight: Tensor) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return weight.ndim == 2 and stored_view(module, "weight") in ("linear", "transposed")


def _gram(module: nn.Module, inputs: Tensor) -> Tensor:
    """`A^T A` of the rows that the matrix of a module is multiplied by in a call."""
    if not isinstance(module, nn.Conv2d):
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        return rows.mT @ rows
    # A row is the patch below the kernel, in the order of `weight.flatten(1)`.
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    images = functional.pad(inputs, module._reversed_padding_repeated_twice, mode).float()
    images = images if images.ndim == 4 else images[None]
    length = images.shape[1] * prod(module.kernel_size)
    gram = images.new_zeros(length, length)
    for some in torch.split(images, max(1, TOGETHER // (length * prod(images.shape[2:])))):
        patches = functional.unfold(some, module.kernel_size, dilation=module.dilation, stride=module.stride)
        gram += torch.einsum("nil,njl->ij", patches, patches)
    return gram
