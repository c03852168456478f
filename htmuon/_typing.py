"""Names of the settings and of the types that several rooms share."""

from typing import Any, Literal, get_args

from torch import Tensor

# A parameter group of an optimizer.
Group = dict[str, Any]
# What is remembered of a parameter between steps, by name.
State = dict[str, Tensor]

Normalization = Literal["none", "spectral", "rms", "lmo", "auto"]
AdjustLrFn = Literal["original", "match_rms_adamw", "spectral_unclamped", "rms_to_rms", "none"]
Precision = Literal["float32", "float16", "bfloat16"]
MatrixView = Literal["linear", "transposed", "conv", "conv_transpose"]

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
ADJUST_LR_FNS: tuple[AdjustLrFn, ...] = get_args(AdjustLrFn)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MATRIX_VIEWS: tuple[MatrixView, ...] = get_args(MatrixView)
