"""Parameters as matrices `[*batch, out, in]`, whatever their module stores.

Rows are outputs and columns are inputs of the linear map that the parameter performs; the shape-dependent scale and row
statistics rest on that.

| view | stored as | matrix |
|---|---|---|
| `linear` | `[*batch, out, in]` (nn.Linear, stacked experts) | the same |
| `transposed` | `[*batch, in, out]` (transformers' Conv1D) | the last two dims swapped |
| `conv` | `[out, in, *kernel]` | `[out, in * kernel]` |
| `conv_transpose` | `[in, out, *kernel]` | `[out, in * kernel]` |
"""

from math import prod

from torch import Tensor
from torch.nn.parameter import is_lazy

from htmuon._typing import MatrixView

MINIMUM_DIMS: dict[MatrixView, int] = {"linear": 2, "transposed": 2, "conv": 3, "conv_transpose": 3}


def default_view(ndim: int) -> MatrixView:
    """The view of a parameter about whose module nothing is known: four or more dimensions are a convolution's."""
    return "conv" if ndim >= 4 else "linear"


def batch_dims(ndim: int, view: MatrixView | None) -> int:
    """How many of a parameter's first dims count matrices.

    Example:
        >>> batch_dims(3, "linear"), batch_dims(4, "conv")
        (1, 0)
    """
    return max(0, ndim - 2) if (view or default_view(ndim)) in ("linear", "transposed") else 0


def row_dim(ndim: int, view: MatrixView) -> int:
    """Which dim of a parameter holds the output rows of its matrices.

    Example:
        >>> row_dim(3, "linear"), row_dim(3, "transposed"), row_dim(4, "conv"), row_dim(4, "conv_transpose")
        (1, 2, 0, 1)
    """
    return {"linear": ndim - 2, "transposed": ndim - 1, "conv": 0, "conv_transpose": 1}[view]


def matrix_view(tensor: Tensor, view: MatrixView, *, stacked: bool = False) -> Tensor:
    """A parameter, or a stack of equally shaped ones, as matrices.

    Args:
        tensor: the parameter's shape; one more leading dim where `stacked`.
        view: how the module stores its matrix.
        stacked: whether the first dim counts parameters.

    Returns:
        `[*batch, out, in]`, or `[stack, *batch, out, in]`.

    Example:
        >>> import torch
        >>> matrix_view(torch.zeros(8, 3, 5, 5), "conv").shape
        torch.Size([8, 75])
        >>> matrix_view(torch.zeros(8, 3, 5, 5), "conv_transpose").shape
        torch.Size([3, 200])
    """
    first = int(stacked)
    if view == "linear":
        return tensor
    if view == "transposed":
        return tensor.mT
    if view == "conv":
        return tensor.flatten(first + 1)
    return tensor.transpose(first, first + 1).flatten(first + 1)


def undo_matrix_view(matrix: Tensor, view: MatrixView, shape: tuple[int, ...]) -> Tensor:
    """A stack of matrices back in the shape `[stack, *shape]` of its parameters: the inverse of `matrix_view`."""
    if view == "linear":
        return matrix
    if view == "transposed":
        return matrix.mT
    if view == "conv":
        return matrix.reshape(-1, *shape)
    inputs, outputs, *kernel = shape
    return matrix.reshape(-1, outputs, inputs, *kernel).transpose(1, 2)


def matrix_shape(shape: tuple[int, ...], view: MatrixView) -> tuple[int, ...]:
    """The shape `[*batch, out, in]` that a parameter of the given shape has as matrices."""
    if view == "linear":
        return shape
    if view == "transposed":
        return (*shape[:-2], shape[-1], shape[-2])
    if view == "conv":
        return (shape[0], prod(shape[1:]))
    return (shape[1], shape[0] * prod(shape[2:]))


def check_shaped(parameter: Tensor, who: str) -> None:
    """Raise if a parameter belongs to a lazy module that has not seen a batch."""
    if is_lazy(parameter):
        raise ValueError(
            f"parameters must have a shape; got {who} of a lazy module that has seen no batch. Run one batch through "
            "the model first."
        )
