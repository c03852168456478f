"""The symmetric product on a CPU, where large ones are computed in blocks."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.products import TERMS, check_product, exact, gram_terms, polynomials, rounding

from htmuon.kernels import gram, symmetric, symmetric_product
from htmuon.kernels.reference import LEAF, symmetric_product_blocks, symmetric_product_reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    n=st.integers(1, 5 * LEAF),
    k=st.integers(0, 100),
    # Float16 holds the squares of these, and its products do not fall among the subnormal numbers.
    scale=st.floats(0.1, 10.0),
    dtype=st.sampled_from(DTYPES),
    terms=st.sampled_from(TERMS),
)
def test_blocks_are_no_further_from_float64_than_torch(batch, n, k, scale, dtype, terms):
    with_c, alpha, beta = terms
    a, b, c = gram_terms((*batch, n, k), dtype, with_c, scale)
    check_product(symmetric_product_blocks(a, b, c, alpha=alpha, beta=beta), a, b, c, alpha, beta)


@pytest.mark.parametrize("exponent", [-30, -15, 15, 30])
def test_blocks_at_any_scale(exponent):
    a, b, c = gram_terms((2 * LEAF, 50), torch.float64, True, 10.0**exponent)
    for dtype in (torch.float32, torch.float64):
        if abs(exponent) == 30 and dtype == torch.float32:
            continue
        terms = (a.to(dtype), b.to(dtype), c.to(dtype))
        check_product(symmetric_product_blocks(*terms), *terms, 1.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_commuting_factors(dtype):
    # Their rounding is all that keeps the product from being symmetric.
    a, b = polynomials((2,), LEAF + 1, dtype)
    product = symmetric_product_blocks(a, b, a, alpha=1.5, beta=-1.0)
    error = (product.to(torch.float64) - exact(a, b, a, 1.5, -1.0)).norm()
    assert torch.equal(product, product.mT)
    assert error <= rounding(a, b, a, 1.5, -1.0)


def test_blocks_take_views():
    a, _, c = gram_terms((3, 2 * LEAF, 40), torch.float32, True)
    for view in (a.mT.contiguous().mT, torch.stack([a, -a], -1)[..., 0], a[:1].expand(3, -1, -1)):
        check_product(symmetric_product_blocks(view, a, c.mT), view, a, c, 1.0, 1.0) if view.stride(0) else None
        check_product(symmetric_product_blocks(view, view, c.mT), view, view, c, 1.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 40, symmetric.BLOCKS_FROM])
def test_the_verb_means_what_its_twin_does(n, dtype):
    a, b, c = gram_terms((2, n, 30), dtype, True)
    expected = symmetric_product_reference(a, b, c, alpha=-0.5, beta=2.0)
    # Two roundings of the same number.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(symmetric_product(a, b, c, alpha=-0.5, beta=2.0), expected, rtol=2 * eps, atol=8 * eps)
    torch.testing.assert_close(gram(a), symmetric_product_reference(a, a), rtol=2 * eps, atol=8 * eps)
    a, b = polynomials((2,), n, dtype)
    # Different factors commute up to their rounding, which one half of the result sees and the other does not.
    expected = symmetric_product_reference(a, b)
    torch.testing.assert_close(symmetric_product(a, b), expected, rtol=2 * eps, atol=8 * eps)


@pytest.mark.parametrize("n", [16, symmetric.BLOCKS_FROM])
def test_the_inputs_stay_as_they_are(n):
    terms = gram_terms((2, n, 30), torch.float32, True)
    before = [x.clone() for x in terms]
    symmetric_product(*terms, alpha=3.0, beta=2.0)
    assert all(torch.equal(x, y) for x, y in zip(terms, before, strict=True))


def test_the_old_value_of_fresh_memory_does_not_matter(monkeypatch):
    a, b, _ = gram_terms((2 * LEAF, 30), torch.float32, False)
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *shape: self.new_full(shape, torch.nan))
    assert symmetric_product_blocks(a, b).isfinite().all()


@pytest.mark.parametrize("n", [16, symmetric.BLOCKS_FROM])
def test_gradients_are_those_of_the_twin(n):
    a, _, c = gram_terms((n, 20), torch.float64, True)
    weights = torch.randn(n, n, dtype=torch.float64)
    gradients = []
    for product in (symmetric_product, symmetric_product_reference):
        leaf = a.clone().requires_grad_()
        (product(leaf, leaf, c, alpha=0.5) * weights).sum().backward()
        gradients.append(leaf.grad)
    # 1e-12: float64 sums of some hundred terms.
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, symmetric.BLOCKS_FROM])
def test_torch_compile_takes_the_verb_whole(n):
    def scaled(a, c):
        return symmetric_product(a, a, c, alpha=0.5) / n

    a, _, c = gram_terms((2, n, 30), torch.float32, True)
    # aot_eager: traced, made functional and differentiated as for Inductor, without a C++ compiler.
    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, c), scaled(a, c), rtol=1e-6, atol=1e-8)


def test_shapes_and_dtypes_are_checked_where_the_kernel_could_not():
    a = torch.ones(3, 4)
    for wrong in [(a, a[:2]), (a, a.double()), (a, a, torch.ones(4, 4)), (a, a, torch.ones(3, 3).double())]:
        with pytest.raises(AssertionError):
            symmetric_product(*wrong)


@pytest.mark.slow
def test_triton_is_imported_with_the_first_product_that_needs_it():
    code = "import sys, torch, htmuon.kernels as k; k.gram(torch.ones(400, 400)); print('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
