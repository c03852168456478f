"""Which output rows of a weight a model uses together, by its own forward pass and not by any table.

A number for its row is put on every output of a linear map or convolution. The numbers follow through reshapes, splits,
whatever works on each element, and depthwise convolutions, whose channels stay apart; where another operation takes
them in, those rows are used together.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

MOVES = {
    "unfold",
    "view",
    "reshape",
    "permute",
    "transpose",
    "split",
    "chunk",
    "unbind",
    "__getitem__",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "tensor_split",
    "movedim",
    "narrow",
    "select",
    "moveaxis",
    "split_with_sizes",
    "expand",
    "swapaxes",
    "view_as",
    "reshape_as",
    "clone",
}
ELEMENTWISE = {
    "mul",
    "silu",
    "gelu",
    "relu",
    "float",
    "to",
    "type_as",
    "half",
    "clamp",
    "clamp_",
    "dropout",
    "batch_norm",
    "bfloat16",
    "detach",
}
ASKS = {
    "__get__",
    "size",
    "dim",
    "stride",
    "is_contiguous",
    "numel",
    "__len__",
    "is_floating_point",
    "data_ptr",
    "__set__",
    "get_device",
    "new_empty",
    "new_zeros",
}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
LINEAR = {"linear", "addmm"} | CONVOLUTIONS
TRANSPOSED = (torch.Tensor.T.__get__, torch.Tensor.mT.__get__)


@dataclass
class RowTrace(TorchFunctionMode):
    """Use it as a context around a forward pass; then ask for `parts`."""

    uses: dict[Parameter, set[tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self):
        super().__init__()
        self.rows: dict[int, tuple[Tensor, Parameter, Tensor]] = {}
        self.turned: dict[int, tuple[Tensor, Parameter]] = {}

    def _mark(self, tensor, weight, rows):
        self.rows[id(tensor)] = (tensor, weight, rows)

    def _follow(self, func, args, kwargs, result):
        _, weight, rows = self.rows[id(args[0])]
        moved = func(rows, *args[1:], **kwargs)
        pairs = [(result, moved)] if isinstance(result, Tensor) else zip(result, moved, strict=True)
        for part, its in pairs:
            self._mark(part, weight, its)

    def _use(self, weight, rows):
        each = rows[tuple(slice(None) if stride else 0 for stride in rows.stride())]
        self.uses.setdefault(weight, set()).add(tuple(each[each >= 0].unique().tolist()))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        moves = (name in MOVES and func is not torch.nn.functional.unfold) or func in TRANSPOSED
        marked = [a for a in _tensors((args, kwargs)) if id(a) in self.rows and self.rows[id(a)][0] is a]
        if name == "cat" and len(args[0]) == 1 and marked:
            self._mark(result, *self.rows[id(marked[0])][1:])
        elif name == "pad" and marked:
            _, weight, rows = self.rows[id(marked[0])]
            self._mark(result, weight, func(rows, args[1], value=-1))
        elif marked and name == "glu":
            _, weight, rows = self.rows[id(marked[0])]
            for half in rows.chunk(2, dim=kwargs.get("dim", args[1] if len(args) > 1 else -1)):
                self._use(weight, half)
        elif marked and moves and marked[0] is args[0]:
            self._follow(func, args, kwargs, result)
        elif len(marked) == 1 and name in ELEMENTWISE and marked[0] is args[0] and result.shape == args[0].shape:
            self._mark(result, *self.rows[id(marked[0])][1:])
        elif marked and marked[0] is args[0] and self._is_depthwise(name, args, kwargs):
            self._convolve(result, *self.rows[id(marked[0])][1:])
            return result
        elif marked and name not in ASKS:
            for tensor in marked:
                self._use(*self.rows[id(tensor)][1:])
        if func == torch.Tensor.T.__get__ and isinstance(args[0], Parameter):
            self.turned[id(result)] = (result, args[0])
        if (weight := self._weight(name, args, kwargs)) is not None:
            self._mark(result, weight, _row_numbers(name, result))
        return result

    def _is_depthwise(self, name, args, kwargs):
        """Whether it is a convolution of as many groups as there are channels, before and after it."""
        if name not in CONVOLUTIONS:
            return False
        weight = kwargs["weight"] if "weight" in kwargs else args[1]
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        return groups == args[0].shape[1] == weight.shape[0]

    def _convolve(self, result, weight, rows):
        """Mark what a depthwise convolution makes, where each channel holds the same row at all places but padding."""
        dims = tuple(range(2, result.ndim))
        each = rows.amax(dims, keepdim=True)
        if torch.equal(rows.where(rows >= 0, each), each.expand(rows.shape)):
            self._mark(result, weight, each.expand(result.shape))
        else:
            self._use(weight, rows)

    def _weight(self, name, args, kwargs):
        """The parameter that a linear map or a convolution applies; None for other operations and weights."""
        if name in ("matmul", "__matmul__"):
            return self.turned.get(id(args[1]), (None, None))[1]
        place = {"addmm": 2}.get(name, 1)
        held = kwargs.get("weight", args[place] if name in LINEAR and len(args) > place else None)
        return held if name in LINEAR and isinstance(held, Parameter) else None

    def parts(self, weight):
        """The rows that are used together, largest sets only, in the order of their first rows."""
        sets = [frozenset(rows) for rows in self.uses.get(weight, ())]
        largest = [rows for rows in set(sets) if not any(rows < other for other in sets)]
        return sorted(tuple(sorted(rows)) for rows in largest)


def _tensors(held):
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        yield from _tensors(list(held.values()))
    elif isinstance(held, list | tuple):
        for one in held:
            yield from _tensors(one)


def _row_numbers(name, result):
    dim = 1 if name.startswith("conv") else result.ndim - 1
    shape = [1] * result.ndim
    shape[dim] = -1
    return torch.arange(result.shape[dim]).view(shape).expand(result.shape)
