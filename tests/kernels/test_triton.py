"""The Triton kernel without a GPU: its numbers in the interpreter, its code by compiling for devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from htmuon.kernels.tiles import DEEP, LARGE, SINGLE, SMALL, WHOLE_TILES, pick_tiles

pytestmark = pytest.mark.slow

triton = pytest.importorskip("triton", reason="triton is not installed; it exists for Linux only")
HERE = Path(__file__).parent

# Shared memory that a program may take (CUDA C++ Programming Guide, table of technical specifications) on the smallest
# device with bfloat16 and on an H100.
SHARED_MEMORY = {86: 99 * 1024, 90: 227 * 1024}
EVERYWHERE = [("*bf16", LARGE), ("*fp16", SMALL), ("*fp32", SINGLE)]
COMPILED = [(capability, *case) for capability in SHARED_MEMORY for case in EVERYWHERE] + [(90, "*fp16", DEEP)]


def test_the_kernel_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "ragged"])
@pytest.mark.parametrize(("capability", "pointer", "tiles"), COMPILED, ids=str)
def test_the_kernel_compiles_for_gpus(capability, pointer, tiles, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = compile_kernel(capability, pointer, tiles, whole)
    code = compiled.asm["ptx"]
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
    assert ".local" not in code, "registers are spilled"
    # Loads run ahead of the products, also where tiles end beyond the matrix.
    assert "cp.async" in code
    assert "tf32" not in code
    if pointer != "*fp32":
        assert ("wgmma.mma_async" if capability == 90 else "mma.sync") in code


def compile_kernel(capability, pointer, tiles, whole):
    """The kernel for contiguous matrices with sizes divisible by 16, as the launcher specializes it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from htmuon.kernels.triton_kernel import symmetric_product_kernel as kernel

    constants = {"HAS_C": True, "WHOLE": whole, "BLOCK": tiles.block, "INNER": tiles.inner, "GROUP": tiles.group}
    constants |= {"a_column": 1, "b_column": 1, "c_column": 1}
    signature, divisible = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("alpha", "beta"):
            signature[name] = "fp32"
        else:
            signature[name] = pointer if name.endswith("_ptr") else "i32"
            divisible[(position,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(kernel, signature, constants, divisible),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )


@pytest.mark.parametrize(
    ("n", "batch", "expected"),
    [(257, 1, SMALL), (1024, 1, SMALL), (1024, 4, LARGE), (2048, 1, LARGE), (512, 13, SMALL), (512, 14, LARGE)],
)
def test_tiles_are_large_where_they_fill_the_device(n, batch, expected):
    for dtype in (torch.bfloat16, torch.float16):
        assert pick_tiles(n, batch, dtype, SHARED_MEMORY[86]) == expected
        assert pick_tiles(n, batch, dtype, SHARED_MEMORY[90]) == (DEEP if expected == LARGE else expected)
        assert pick_tiles(n, batch, torch.float32, SHARED_MEMORY[90]) == SINGLE


@pytest.mark.parametrize("tiles", [DEEP, LARGE, SMALL, SINGLE], ids=str)
def test_aligned_sides_are_cut_into_whole_tiles(tiles):
    assert WHOLE_TILES % tiles.block == WHOLE_TILES % tiles.inner == 0


def test_torch_compile_takes_the_operator_whole(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    from htmuon.kernels import symmetric_product, triton_op

    monkeypatch.setattr(triton_op, "SUPPORTED", True)
    for name in ("_exchange_device", "_maybe_exchange_device"):
        monkeypatch.setattr(torch.cuda, name, lambda device: device)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    # Fake tensors say that they lie on a GPU; nothing is computed.
    with FakeTensorMode():
        a = torch.empty(16, 1024, 1024, device="cuda", dtype=torch.bfloat16)
        compiled = torch.compile(lambda a: symmetric_product(a, a, alpha=0.5) + 1, fullgraph=True, backend=backend)
        result = compiled(a)
    assert (result.shape, result.dtype, result.device.type) == ((16, 1024, 1024), torch.bfloat16, "cuda")
    assert "torch.ops.htmuon.symmetric_product" in graphs[0].code
