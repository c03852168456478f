"""How modules store their matrices: which parameter is one, and in which view."""

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from htmuon._typing import MatrixView
from htmuon.routing.reparametrized import WeightPlace
from htmuon.routing.split import Split
from htmuon.routing.views import default_view, matrix_shape


@dataclass(frozen=True)
class Stored:
    """How a module stores a parameter that is a matrix or several.

    Attributes:
        view: which dims are rows and columns.
        split: the parts that the module fuses in it, if it says so.
        reason: one clause for the listing; empty where the class of the module says enough.
    """

    view: MatrixView
    split: Split | None = None
    reason: str = ""


# Modules that perform a linear map by a parameter `weight`, and how they store it.
MATRIX_MODULES: tuple[tuple[type[nn.Module], MatrixView], ...] = (
    (nn.Linear, "linear"),
    (nn.ConvTranspose1d, "conv_transpose"),
    (nn.ConvTranspose2d, "conv_transpose"),
    (nn.ConvTranspose3d, "conv_transpose"),
    (nn.Conv1d, "conv"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv"),
)


MULTIHEAD_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def is_grouped(module: nn.Module) -> bool:
    """Whether the module is a convolution of independent groups of channels: many small maps, not one matrix."""
    return getattr(module, "groups", 1) != 1


def stored_view(module: nn.Module, attribute: str) -> MatrixView | None:
    """How `module.attribute` stores a matrix; None where it is no matrix of a known kind of module."""
    if isinstance(module, nn.MultiheadAttention) and attribute in MULTIHEAD_PROJECTIONS:
        return "linear"
    if attribute != "weight" or is_grouped(module):
        return None
    if _is_conv1d_of_transformers(module):
        return "transposed"
    return next((view for kind, view in MATRIX_MODULES if isinstance(module, kind)), None)


def stored(module: nn.Module, attribute: str) -> Stored | None:
    """How a module stores `module.attribute`; None where it is no matrix of a known kind of module."""
    view = stored_view(module, attribute)
    return None if view is None else Stored(view)


def _is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether the class of a module, or one that it is made from (a parametrized module has such a class), is Conv1D.

    By its name, for the library need not be installed.
    """
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


def weight_shape(module: nn.Module, attribute: str) -> tuple[int, ...] | None:
    """The shape of a matrix of a known kind of module, by what it says of itself; else None.

    The weight itself is not asked: where it is made at each call, making it may move buffers.
    """
    if isinstance(module, nn.MultiheadAttention) and attribute in MULTIHEAD_PROJECTIONS:
        width = module.embed_dim
        inputs = {"k_proj_weight": module.kdim, "v_proj_weight": module.vdim}.get(attribute, width)
        return (3 * width if attribute == "in_proj_weight" else width, inputs)
    if attribute != "weight":
        return None
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    if isinstance(module, _ConvNd):
        first, second = module.out_channels, module.in_channels
        if module.transposed:
            first, second = second, first
        return (first, second // module.groups, *module.kernel_size)
    if _is_conv1d_of_transformers(module):
        return (cast(int, module.nx), cast(int, module.nf))
    return None


def own_view(parameter: Tensor, place: WeightPlace) -> MatrixView | None:
    """How a parameter stores a matrix of its layer, by itself or in the shape of the weight that is made of it."""
    if place.makers and tuple(parameter.shape) != weight_shape(place.module, place.attribute):
        return None
    return stored_view(place.module, place.attribute)


def is_vector(parameter: Tensor, place: WeightPlace) -> bool:
    """Whether it is a vector, by its dims or as the gains `[out, 1]` that `weight_norm` takes out of a weight."""
    return parameter.ndim < 2 or (bool(place.others) and sum(side != 1 for side in parameter.shape) < 2)


def other_reason(parameter: Tensor, view: MatrixView | None = None) -> str | None:
    """Why a parameter can be no matrix, whatever module holds it; None where it can.

    Args:
        parameter: any tensor that has a shape.
        view: how it stores a matrix; None where that is not known.

    Example:
        >>> import torch
        >>> other_reason(torch.ones(3)), other_reason(torch.ones(0, 4)), other_reason(torch.ones(1, 4))
        ('vector', 'empty', 'matrix of one row or column')
        >>> other_reason(torch.ones(3, 4)) is None
        True
    """
    if parameter.ndim < 2:
        return "vector"
    if parameter.numel() == 0:
        return "empty"
    if min(matrix_shape(tuple(parameter.shape), view or default_view(parameter.ndim))[-2:]) == 1:
        return "matrix of one row or column"
    return None
