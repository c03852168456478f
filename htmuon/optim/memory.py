"""How a parameter lies in memory: the kernels that walk through it, element after element, need it dense."""

from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements lie side by side, in any order of the dims: no gaps, none twice, none backwards.

    Example:
        >>> import torch
        >>> whole = torch.zeros(6, 8)
        >>> is_dense(whole), is_dense(whole.mT), is_dense(whole[:, :4])
        (True, True, False)
    """
    return tensor.numel() == 0 or (_reach(tensor) == tensor.numel() and not tensor.is_neg())


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share a place in memory, as those of an expanded tensor do.

    Example:
        >>> import torch
        >>> overlaps(torch.zeros(1, 8).expand(6, 8)), overlaps(torch.zeros(6, 8)[:, :4])
        (True, False)
    """
    return tensor.numel() > 0 and _reach(tensor) == 0


def _reach(tensor: Tensor) -> int:
    """From the first element to behind the last one; 0 where a dim steps into what the dims inside it fill."""
    reach = 1
    dims = ((abs(stride), size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    for stride, size in sorted(dims):
        if stride < reach:
            return 0
        reach += (size - 1) * stride
    return reach
