"""Tiles of the Triton kernel against cuBLAS, on a CUDA device: what htmuon/kernels/tiles.py was chosen by.

    python benchmarks/symmetric_tiles.py --json benchmarks/results/symmetric_tiles_gpu.json

One row a shape of `C + A A^T` in float16: microseconds of `torch.baddbmm`, then its time divided by that of the same
product on blocks of half the side (`blocks`), and by that of each configuration of the kernel. Replays of CUDA graphs
are timed, so that launching costs nothing. A configuration that is wrong or cannot run has no number.
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch
from timing import conditions, write
from torch import Tensor

from htmuon.kernels import reference, triton_op
from htmuon.kernels.reference import symmetric_product_reference
from htmuon.kernels.tiles import Tiles

# batch, n, k: squares; Gram matrices of a LLaMA's MLP, the first one with rows that are not aligned.
SHAPES = [(2, 2048, 5461), (2, 2048, 5464), (4, 2048, 2048), (1, 4096, 4096), (8, 1024, 2736), (16, 1024, 1024)]
SHAPES += [(32, 512, 512), (16, 512, 1376)]
CONFIGURATIONS = [
    *(Tiles(128, 64, 8, warps, stages) for warps in (4, 8) for stages in (3, 4)),
    *(Tiles(128, 32, 8, warps, stages) for warps in (4, 8) for stages in (4, 6)),
    *(Tiles(128, 128, 8, warps, stages) for warps in (4, 8) for stages in (2, 3)),
    *(Tiles(64, 64, 8, 4, stages) for stages in (3, 4, 6)),
    Tiles(64, 128, 8, 4, 3),
    Tiles(128, 64, 4, 8, 4),
    Tiles(128, 64, 16, 8, 4),
]
LAUNCHES, REPLAYS = 10, 7


def operands(batch: int, n: int, k: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    a = torch.randn(batch, n, k, generator=generator, device="cuda") * k**-0.5
    c = torch.randn(batch, n, n, generator=generator, device="cuda")
    return a.half(), (c + c.mT).half()


def product_with(tiles: Tiles, a: Tensor, c: Tensor) -> Tensor:
    triton_op.pick_tiles = lambda *_: tiles
    product: Tensor = triton_op.symmetric_product_triton(a, a, c, 1.0, 1.0)
    return product


def microseconds(run: Callable[[], Tensor]) -> float:
    """Of one run, within a graph of several."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            run()
    times = []
    for _ in range(REPLAYS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(1e3 * before.elapsed_time(after) / LAUNCHES)
    return statistics.median(times)


def compile_ahead(tiles: Tiles) -> None:
    """Into Triton's cache: all processors compile, not one."""
    for batch, n, k in SHAPES:
        try:
            product_with(tiles, *operands(batch, n, k))
        except Exception:  # too much shared memory, for instance: the row says so
            return


def measured(shape: tuple[int, int, int]) -> dict[str, float]:
    a, c = operands(*shape)
    expected = symmetric_product_reference(a, a, c)
    plain = microseconds(lambda: symmetric_product_reference(a, a, c))
    reference.LEAF = shape[1] // 2
    found = {"baddbmm_microseconds": plain}
    found["blocks"] = plain / microseconds(lambda: reference.symmetric_product_blocks(a, a, c))
    for tiles in CONFIGURATIONS:
        try:
            wrong = (product_with(tiles, a, c) - expected).abs().max() > 0.05
            if not wrong:
                found[str(astuple(tiles))] = plain / microseconds(lambda tiles=tiles: product_with(tiles, a, c))
        except Exception as error:
            print(f"{tiles}: {str(error).splitlines()[0]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        pool.map(compile_ahead, CONFIGURATIONS, chunksize=1)
    results = []
    for shape in SHAPES:
        found = measured(shape)
        print(shape, *(f"{name} {value:.3g}" for name, value in found.items()), sep="\n    ", flush=True)
        results.append({"shape": shape, **found})
    write(arguments.json, {**conditions(device=torch.device("cuda")), "results": results})


if __name__ == "__main__":
    main()
