"""Names of the settings that several rooms share."""

from typing import Literal, get_args

Normalization = Literal["none", "spectral", "rms", "lmo"]
AdjustLrFn = Literal["original", "match_rms_adamw"]
MatrixView = Literal["linear", "transposed", "conv", "conv_transpose"]

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
ADJUST_LR_FNS: tuple[AdjustLrFn, ...] = get_args(AdjustLrFn)
MATRIX_VIEWS: tuple[MatrixView, ...] = get_args(MatrixView)
