"""The symmetric product on a GPU: against cuBLAS, under torch.compile and in a CUDA graph."""

import pytest
import torch
from kernels.products import NARROW, SHAPES, TERMS, check_product, gram_terms, needs_gpu, polynomials

from htmuon.kernels import computes_half, symmetric_product
from htmuon.kernels.quack_product import symmetric_product_quack
from htmuon.kernels.reference import symmetric_product_reference

pytestmark = [pytest.mark.gpu, needs_gpu]
DTYPES = [*NARROW, torch.float32]
# The verb uses the kernel for this stack (in half precision).
TAKES_THE_KERNEL = (16, 1024, 1024)
LARGE_SHAPES = [(300, 500), (2, 1376, 512), (2048, 5504), (2048, 5461), (3, 385, 77)]


@pytest.fixture(autouse=True)
def on_the_gpu():
    """Cases are drawn on the device. Float32 products of the twin run without TF32, by torch's default."""
    with torch.device("cuda"):
        yield


@pytest.fixture
def kernel():
    triton_op = pytest.importorskip("htmuon.kernels.triton_op", reason="triton is not installed")
    if not triton_op.SUPPORTED:
        pytest.skip("the kernel needs an Ampere GPU or a newer one")
    return triton_op.symmetric_product_triton


@pytest.mark.parametrize("shape", SHAPES + LARGE_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernel_is_no_further_from_float64_than_cublas(kernel, dtype, shape):
    a, b, c = gram_terms(shape, dtype, True)
    check_product(kernel(a, b, c, 2.0, -0.75), a, b, c, 2.0, -0.75)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_the_verb_uses_the_kernel(kernel, dtype):
    assert computes_half(TAKES_THE_KERNEL, dtype, torch.device("cuda"))


@pytest.mark.parametrize(("with_c", "alpha", "beta"), TERMS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_the_verb_is_no_further_from_float64_than_cublas(kernel, dtype, with_c, alpha, beta):
    a, b, c = gram_terms(TAKES_THE_KERNEL, dtype, with_c)
    check_product(symmetric_product(a, b, c, alpha=alpha, beta=beta), a, b, c, alpha, beta)


@pytest.mark.parametrize("shape", [(2048, 2048), (3, 2048, 5504)], ids=str)
@pytest.mark.parametrize(("with_c", "alpha", "beta"), TERMS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_quack_is_no_further_from_float64_than_cublas(shape, with_c, alpha, beta, dtype):
    pytest.importorskip("quack", reason="quack-kernels is not installed")
    a, b, c = gram_terms(shape, dtype, with_c)
    check_product(symmetric_product_quack(a, b, c, alpha, beta), a, b, c, alpha, beta)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_commuting_factors(kernel, dtype):
    a, b = polynomials((2,), 500, dtype)
    check_product(kernel(a, b, a, 1.5, -1.0), a, b, a, 1.5, -1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(kernel, dtype):
    a, _, c = gram_terms((3, 270, 150), dtype, True)
    transposed, strided = a.mT.contiguous().mT, torch.stack([a, -a], dim=-1)[..., 0]
    for left, right in [(transposed, a), (a, strided), (strided, transposed), (a[:1].expand_as(a),) * 2]:
        check_product(kernel(left, right, c.mT, 1.0, 1.0), left, right, c, 1.0, 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_verb_is_captured_in_a_cuda_graph(dtype):
    a, _, c = gram_terms(TAKES_THE_KERNEL, dtype, True)
    symmetric_product(a, a, c)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        product = symmetric_product(a, a, c, alpha=0.5)
    fresh, _, _ = gram_terms(TAKES_THE_KERNEL, dtype, False)
    a.copy_(fresh)
    graph.replay()
    assert torch.equal(product, symmetric_product(fresh, fresh, c, alpha=0.5))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_verb_does_not_wait_for_the_device(dtype):
    a, _, c = gram_terms(TAKES_THE_KERNEL, dtype, True)
    symmetric_product(a, a, c)
    torch.cuda.set_sync_debug_mode("error")
    try:
        symmetric_product(a, a, c, alpha=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_compile_takes_the_verb_whole(dtype):
    a, _, c = gram_terms(TAKES_THE_KERNEL, dtype, True)
    compiled = torch.compile(lambda a, c: symmetric_product(a, a, c, alpha=0.5) * 2, fullgraph=True)
    expected = symmetric_product(a, a, c, alpha=0.5) * 2
    torch.testing.assert_close(compiled(a, c), expected)


def test_a_product_that_needs_a_gradient_has_one():
    a = torch.randn(TAKES_THE_KERNEL, dtype=torch.bfloat16, requires_grad=True)
    symmetric_product(a, a).sum().backward()
    twin = a.detach().clone().requires_grad_()
    symmetric_product_reference(twin, twin).sum().backward()
    assert torch.equal(a.grad, twin.grad)
