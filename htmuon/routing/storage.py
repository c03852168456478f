"""How modules store their matrices: which parameter is one, in which view, and of which parts."""

from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from htmuon._typing import MatrixView
from htmuon.routing.declared import Holders, Parts, Stored, is_of
from htmuon.routing.experts import stacked
from htmuon.routing.fused import fused
from htmuon.routing.reparametrized import WeightPlace, layer_name
from htmuon.routing.views import default_view, matrix_shape

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


# What torch's recurrent layers and cells fuse; the plain ones hold one matrix.
GATES: tuple[tuple[tuple[type[nn.Module], ...], tuple[int, str]], ...] = (
    ((nn.LSTM, nn.LSTMCell), (4, "i, f, g, o")),
    ((nn.GRU, nn.GRUCell), (3, "r, z, n")),
)

MULTIHEAD_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def is_grouped(module: nn.Module) -> bool:
    """Whether the module is a convolution of independent groups of channels: many small maps, not one matrix."""
    return getattr(module, "groups", 1) != 1


def stored(module: nn.Module, attribute: str, by: Holders = ()) -> Stored | None:
    """How `module.attribute` stores its matrices; None where it is none of a known kind of module.

    Args:
        module: any module that has the parameter, or makes it at each call.
        attribute: the parameter's name in it.
        by: what holds the module, from `holders`; fused layers are known by that alone.

    Returns:
        The view, the parts, and the reason. The parts of a grouped convolution are its groups.

    Example:
        >>> stored(nn.Linear(3, 4), "weight")
        Stored(view='linear', split=None, reason='matrix of Linear', apart=False)
        >>> stored(nn.LSTM(3, 4), "weight_ih_l0")
        Stored(view='linear', split=4, reason='matrix of LSTM; i, f, g, o', apart=False)
        >>> stored(nn.Conv2d(8, 16, 3, groups=4), "weight")
        Stored(view='conv', split=4, reason='matrix of Conv2d; 4 groups', apart=True)
        >>> stored(nn.LayerNorm(4), "weight") is None
        True
    """
    return _of_torch(module, attribute, by) or _of_others(module, attribute, by)


def stored_view(module: nn.Module, attribute: str) -> MatrixView | None:
    """How `module.attribute` stores a matrix; None where it is no matrix of a known kind of module."""
    found = stored(module, attribute)
    return None if found is None else found.view


def _of_torch(module: nn.Module, attribute: str, by: Holders) -> Stored | None:
    """The weights of layers, with the parts that groups, torch itself or the holders of a layer give them."""
    view, reason = _layer_view(module, attribute), f"matrix of {layer_name(module)}"
    if view is None:
        return None
    parts = _own_parts(module, attribute)
    if is_grouped(module):
        return _grouped(module, view, reason)
    if parts is None and attribute == "weight":
        shape = weight_shape(module, attribute)
        parts = fused(matrix_shape(shape, view)[-2], by) if shape is not None else None
    return Stored(view, None, reason) if parts is None else Stored(view, parts[0], f"{reason}; {parts[1]}")


def _layer_view(module: nn.Module, attribute: str) -> MatrixView | None:
    if isinstance(module, nn.MultiheadAttention) and attribute in MULTIHEAD_PROJECTIONS:
        return "linear"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and attribute.startswith("weight_"):
        return "linear"
    if attribute != "weight":
        return None
    if _is_conv1d_of_transformers(module):
        return "transposed"
    return next((view for kind, view in MATRIX_MODULES if isinstance(module, kind)), None)


def _own_parts(module: nn.Module, attribute: str) -> tuple[Parts, str] | None:
    """The parts of a weight that torch's own modules fuse, and what they are."""
    if attribute == "in_proj_weight":
        return 3, "q, k, v"
    if attribute.startswith(("weight_ih", "weight_hh")):
        return next((gates for kinds, gates in GATES if isinstance(module, kinds)), None)
    return None


def _grouped(module: nn.Module, view: MatrixView, reason: str) -> Stored | None:
    """A convolution of groups as that many matrices `[out/groups, in/groups * kernel]`.

    None for a depthwise one, whose filters map nothing to anything, and for a transposed one, whose groups are columns.
    """
    assert isinstance(module, _ConvNd)
    if view != "conv" or module.groups == module.in_channels:
        return None
    return Stored(view, module.groups, f"{reason}; {module.groups} groups", apart=True)


def _of_others(module: nn.Module, attribute: str, by: Holders) -> Stored | None:
    parameter = module._parameters.get(attribute)
    return None if parameter is None else stacked(module, attribute, tuple(parameter.shape), by)


def _is_conv1d_of_transformers(module: nn.Module) -> bool:
    return is_of(module, "transformers", "Conv1D")


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
