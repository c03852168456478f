"""The Triton kernel in Triton's interpreter; run by test_triton.py, in a process where TRITON_INTERPRET is set.

The variable has to be there before triton is imported and changes it for the whole process.
"""

import dataclasses

import pytest
import torch
from kernels.products import SHAPES, TERMS, check_product, gram_terms, polynomials
from triton import language as tl
from triton.runtime import interpreter

from htmuon.kernels import tiles, triton_op
from htmuon.kernels.triton_op import symmetric_product_triton

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def bfloat16_as_on_a_gpu(monkeypatch):
    """The interpreter multiplies the integers that bfloat16 numbers are kept as, and rounds to bfloat16 by cutting off.

    A GPU multiplies exactly into float32 and rounds to nearest; so does this.
    """
    dot, cast = interpreter.InterpreterBuilder.create_dot, interpreter.InterpreterBuilder.cast_impl

    def create_dot(self, a, b, *rest):
        widened = [cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return dot(self, *widened, *rest)

    def cast_impl(self, source, target):
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(source.data).to(torch.bfloat16)
        return interpreter.TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", cast_impl)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_shape(dtype, shape):
    a, b, c = gram_terms(shape, dtype, True)
    check_product(symmetric_product_triton(a, b, c, 2.0, -0.75), a, b, c, 2.0, -0.75)


@pytest.mark.parametrize(("with_c", "alpha", "beta"), TERMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_terms(dtype, with_c, alpha, beta):
    a, b, c = gram_terms((2, 65, 129), dtype, with_c)
    check_product(symmetric_product_triton(a, b, c, alpha, beta), a, b, c, alpha, beta)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_tiles(monkeypatch, dtype):
    monkeypatch.setattr(triton_op, "pick_tiles", lambda *_: tiles.LARGE)
    for shape in [(256, 64), (2, 257, 65)]:
        a, b, c = gram_terms(shape, dtype, True)
        check_product(symmetric_product_triton(a, b, c, 1.0, 1.0), a, b, c, 1.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_commuting_factors(dtype):
    a, b = polynomials((2,), 100, dtype)
    check_product(symmetric_product_triton(a, b, a, 1.5, -1.0), a, b, a, 1.5, -1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(dtype):
    a, _, c = gram_terms((3, 70, 150), dtype, True)
    transposed = a.mT.contiguous().mT
    strided = torch.stack([a, -a], dim=-1).flatten(-2)[..., ::2]
    expanded = a[:1].expand(3, 70, 150)
    rows = torch.cat([a, a], dim=1)[:, ::2]
    for left, right in [(transposed, a), (a, strided), (strided, transposed), (expanded, expanded), (rows, rows)]:
        check_product(symmetric_product_triton(left, right, c.mT, 1.0, 1.0), left, right, c, 1.0, 1.0)
    identity = torch.eye(70, dtype=dtype).expand(3, 70, 70)
    check_product(symmetric_product_triton(a, a, identity, -1.0, 3.0), a, a, identity, -1.0, 3.0)


def test_every_tile_is_computed_once_for_all_sizes(monkeypatch):
    # Groups of four rows of tiles rather than eight: every case of a walk through three groups, with fewer tiles.
    few = dataclasses.replace(tiles.SINGLE, block=32, group=4)
    monkeypatch.setattr(triton_op, "pick_tiles", lambda *_: few)
    # One column and ones: a tile left out is garbage, and a tile of another matrix is another number.
    for tiles_across in [1, 2, 3, 4, 5, 9]:
        a = torch.arange(1.0, 3).view(2, 1, 1).expand(2, tiles_across * few.block, 1)
        product = symmetric_product_triton(a, a, None, 1.0, 1.0)
        assert (product == torch.tensor([1.0, 4.0]).view(2, 1, 1)).all()
