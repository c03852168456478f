"""Which matrices a stored tensor is, and whether its numbers are weights that can be measured.

- `[out, in]` is a matrix;
- a convolution kernel `[out, in, *kernel]` is `[out, in * kernel]`;
- stacked experts `[E, m, n]` are E matrices, named `name[0]`, `name[1]`, ...

A quantized checkpoint has whole numbers in place of weights, and beside them tables of scales and zero points, which
are floating-point numbers and no weights either.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

StoredStatus = Literal["ok", "not_floating", "side_table", "complex", "sparse", "sharded", "no_numbers", "tied"]

_FLOATING = frozenset({"F64", "F32", "F16", "BF16"})
# What quantized weights are stored in. Indices, which no module quantizes, are I64 and BOOL.
_QUANTIZED = re.compile(r"[IU](4|8|16|32)|F(4|6|8)\w*|u?int([1-8]|16|32)|float[468]\w+|q\w+")
_OTHERS: dict[str, StoredStatus] = {"meta": "no_numbers", "DTensor": "sharded"}
# The last words of names that only quantizers give: compressed-tensors, GPTQ and AWQ, DeepSeek's fp8, bitsandbytes,
# torchao.
_SIDE_TABLE = re.compile(
    r"(.*[._:])?(weight_(global_)?scales?(_inv|_2)?|scale_inv|zero_points?|qzeros|g_idx|(nested_)?(absmax|quant_map))"
)
# Those that layers have too: side tables where quantized numbers stand beside them. HQQ has `scale` and `zero`, GPTQ,
# AWQ, MXFP4 and MLX `scales`, MLX `biases`, AQLM `codebooks`, quanto `_scale`, Marlin `s`.
_PERHAPS_SIDE_TABLE = re.compile(r"(.*[._:])?(s|q?scales?(_inv|_max|_ub)?|zeros?|biases|codebooks?|SCB)")
# Kernels of one-dimensional convolutions are shorter than this, stacked matrices wider.
_LONGEST_KERNEL = 16

_DEQUANTIZE = "convert (dequantize) the checkpoint to bfloat16 or float32"
_MESSAGES: dict[StoredStatus, str] = {
    "ok": "the numbers are the weights",
    "not_floating": f"stored as {{dtype}}, not as floating-point weights: {_DEQUANTIZE}",
    "side_table": f"a table that belongs to quantized weights, such as their scales, and no weights: {_DEQUANTIZE}",
    "complex": "stored as {dtype}, complex numbers: only real matrices are measured; store real and imaginary parts as "
    "two tensors",
    "sparse": "stored as {dtype}: only dense matrices are measured; store it after .to_dense()",
    "sharded": "a part of a tensor that is sharded over ranks (DTensor): save the state_dict of the whole model",
    "no_numbers": "a tensor of the device meta, of which the file has the shape and no numbers",
    "tied": "the same tensor as {tied_to}: measured once, under that name",
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as a file lists it.

    Attributes:
        key: its name in the file.
        shape: all dims.
        dtype: as safetensors names it, or torch.
        tied_to: the key of an earlier tensor of the file that has the same numbers in the same memory.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    tied_to: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredMatrix:
    """One matrix of a checkpoint, not read yet.

    Attributes:
        name: the tensor's name, with `[i]` for the i-th matrix of a stack.
        shape: (rows, columns) of the matrix `[out, in]`.
        dtype: as the file names it: "BF16", "F32", "F8_E4M3", "I32", ...
        file: where it is.
        key: the tensor's name in the file.
        index: its place in a stack `[E, m, n]`, None for a tensor that is one matrix.
        side_table: whether it belongs to quantized weights, as their scales do.
        tied_to: the key of a tensor that it repeats.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    file: Path
    key: str
    index: int | None = None
    side_table: bool = False
    tied_to: str | None = None

    @property
    def floating(self) -> bool:
        """Whether the file has real floating-point numbers: float64, float32, float16 or bfloat16."""
        return self.dtype in _FLOATING

    @property
    def status(self) -> StoredStatus:
        """`ok` where the numbers in the file are weights that can be measured, or why they are not."""
        if self.side_table:
            return "side_table"
        if self.floating:
            return "ok" if self.tied_to is None else "tied"
        if self.dtype.startswith(("complex", "C64")):
            return "complex"
        if self.dtype.startswith("sparse"):
            return "sparse"
        return _OTHERS.get(self.dtype, "not_floating")

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self.status].format(dtype=self.dtype, tied_to=printable(self.tied_to or ""))


def matrices_of(file: Path, stored: StoredTensor, *, side_table: bool = False) -> list[StoredMatrix]:
    """The matrices of a tensor; none if it is a vector, a scalar, empty, or an integer table of one row.

    Example:
        >>> experts = StoredTensor(key="experts", shape=(2, 8, 9), dtype="F32")
        >>> [matrix.name for matrix in matrices_of(Path("x"), experts)]
        ['experts[0]', 'experts[1]']
    """
    if len(stored.shape) < 2 or math.prod(stored.shape) == 0:
        return []
    about: dict[str, Any] = {"dtype": stored.dtype, "file": file, "key": stored.key, "tied_to": stored.tied_to}
    name = printable(stored.key)
    first, *others = stored.shape
    if side_table:
        return [StoredMatrix(name=name, shape=(first, math.prod(others)), side_table=True, **about)]
    if len(others) == 2 and first == 1:
        return [StoredMatrix(name=name, shape=(others[0], others[1]), **about)]
    if len(others) == 2 and _is_stack(name, others[1]):
        shape = (others[0], others[1])
        return [StoredMatrix(name=f"{name}[{i}]", shape=shape, index=i, **about) for i in range(first)]
    matrix = StoredMatrix(name=name, shape=(first, math.prod(others)), **about)
    return [matrix] if first > 1 or matrix.status in ("ok", "tied") else []


def side_tables(tensors: Iterable[StoredTensor]) -> set[str]:
    """The keys of the tensors that belong to quantized weights: scales, zero points, code books.

    Args:
        tensors: all of a checkpoint; what quantized numbers stand beside may be in another file.

    Example:
        >>> found = {"a.qweight": "I32", "a.scales": "F16", "a.bias": "F16", "b.scales": "F16", "b.weight": "F16"}
        >>> side_tables(StoredTensor(key=key, shape=(4, 4), dtype=dtype) for key, dtype in found.items())
        {'a.scales'}
    """
    keys = {tensor.key: tensor.dtype for tensor in tensors}
    quantized = {key for key, dtype in keys.items() if _QUANTIZED.fullmatch(dtype) and not _SIDE_TABLE.fullmatch(key)}
    places = (quantized | {key.rpartition(".")[0] for key in quantized}) - {""}
    return {
        key
        for key in keys
        if _SIDE_TABLE.fullmatch(key) or (_PERHAPS_SIDE_TABLE.fullmatch(key) and key.rpartition(".")[0] in places)
    }


def printable(key: str) -> str:
    """What a file calls its tensors goes to terminals and pages."""
    return "".join(c if c.isprintable() else "?" for c in key)


def _is_stack(name: str, last: int) -> bool:
    """Whether a tensor of three dims is a stack of matrices, and not the kernel of a convolution."""
    return "expert" in name.lower() or (last > _LONGEST_KERNEL and "conv" not in name.lower())
