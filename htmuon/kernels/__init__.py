"""Device code behind a few verbs; every verb has a plain torch twin.

The verbs say what an algorithm needs, not how a device does it: `linalg` is written once in them.
"""

from htmuon.kernels.alignment import aligned as aligned
from htmuon.kernels.alignment import aligned_sides as aligned_sides
from htmuon.kernels.precision import full_float32 as full_float32
from htmuon.kernels.precision import multiplies_bfloat16 as multiplies_bfloat16
from htmuon.kernels.precision import multiplies_float16 as multiplies_float16
from htmuon.kernels.symmetric import computes_half as computes_half
from htmuon.kernels.symmetric import gram as gram
from htmuon.kernels.symmetric import symmetric_product as symmetric_product

__all__ = [
    "aligned",
    "aligned_sides",
    "computes_half",
    "full_float32",
    "gram",
    "multiplies_bfloat16",
    "multiplies_float16",
    "symmetric_product",
]
