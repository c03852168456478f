"""A symmetric product, of which half is computed, against torch.matmul, which computes all of it.

    python benchmarks/symmetric_product.py --cpu-seconds --rounds 5 --json benchmarks/results/symmetric_product.json

`matmul` is `A @ A.mT`; `verb` is what the library calls, `blocks` the form for CPUs and `triton` the kernel for GPUs,
at every size whether the verb would take it or not. Ratios are medians over rounds of the time divided by that of
`matmul` in the same round. Two calls of `matmul` (the column `again`) show what the machine makes of equal
work. On a machine that others use too, `--cpu-seconds` counts what one thread spends instead of the time on the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import conditions, ratios, side_by_side, write
from torch import Tensor

from htmuon.kernels import gram
from htmuon.kernels.reference import symmetric_product_blocks

SIZES = (256, 384, 512, 1024, 2048)
# Square, and the short side of an MLP of a LLaMA.
ASPECTS = (1.0, 2.7)
BATCHES = (1, 4)
COLUMNS = ("again", "verb", "blocks", "triton")
# Long enough for the clock and, on a GPU, for launches to queue up.
SECONDS_PER_MEASUREMENT = 0.01


def candidates(a: Tensor) -> dict[str, Callable[[], object]]:
    products: dict[str, Callable[[], object]] = {
        "matmul": lambda: a @ a.mT,
        "again": lambda: a @ a.mT,
        "verb": lambda: gram(a),
    }
    if not a.is_cuda:
        return products | {"blocks": lambda: symmetric_product_blocks(a, a)}
    if a.dtype == torch.float64:
        return products
    from htmuon.kernels.triton_op import symmetric_product_triton

    return products | {"triton": lambda: symmetric_product_triton(a, a, None, 1.0, 1.0)}


def cpu_seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """As `side_by_side`, in seconds of the processor."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for counted in [False] + [True] * rounds:
        for name, run in runs.items():
            start = time.process_time()
            run()
            if counted:
                seconds[name].append(time.process_time() - start)
    return seconds


Timer = Callable[[dict[str, Callable[[], object]], int], dict[str, list[float]]]


def repeated(run: Callable[[], object], times: int) -> Callable[[], object]:
    def runs() -> None:
        for _ in range(times):
            run()

    return runs


def repetitions(run: Callable[[], object], timer: Timer) -> int:
    """How often to run for one measurement; the first run compiles."""
    run()
    seconds = timer({"run": run}, 3)["run"]
    return max(1, round(SECONDS_PER_MEASUREMENT / statistics.median(seconds)))


def measure(n: int, k: int, batch: int, dtype: torch.dtype, device: str, rounds: int, timer: Timer) -> dict[str, Any]:
    a = torch.randn(batch, n, k, device=device).to(dtype)
    runs = candidates(a)
    times = repetitions(runs["matmul"], timer)
    seconds = timer({name: repeated(run, times) for name, run in runs.items()}, rounds)
    return {
        "n": n,
        "k": k,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "milliseconds": {name: 1e3 * statistics.median(values) / times for name, values in seconds.items()},
        "ratio": ratios(seconds, "matmul"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="rows of A")
    parser.add_argument("--aspects", type=float, nargs="+", default=ASPECTS, help="columns of A by its rows")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="matrices in a stack")
    parser.add_argument("--dtypes", nargs="+", default=("float32", "bfloat16"), help="names of torch dtypes")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default 7)")
    parser.add_argument("--cpu-seconds", action="store_true", help="processor time of one thread")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not arguments.cpu_seconds else "cpu"
    timer: Timer = cpu_seconds if arguments.cpu_seconds else side_by_side
    if arguments.cpu_seconds:
        torch.set_num_threads(1)
    print(f"{'dtype':>9}{'batch':>6}{'n':>6}{'k':>6}{'ms':>9}" + "".join(f"{name:>8}" for name in COLUMNS))
    results = []
    for name in arguments.dtypes:
        for batch in arguments.batches:
            for n in arguments.sizes:
                for aspect in arguments.aspects:
                    k = round(aspect * n)
                    result = measure(n, k, batch, getattr(torch, name), device, arguments.rounds, timer)
                    cells = [f"{result['ratio'][c]:8.2f}" if c in result["ratio"] else f"{'-':>8}" for c in COLUMNS]
                    print(
                        f"{name:>9}{batch:6}{n:6}{k:6}{result['milliseconds']['matmul']:9.3f}",
                        *cells,
                        sep="",
                        flush=True,
                    )
                    results.append(result)
    write(arguments.json, {**conditions(device=torch.device(device)), "results": results})


if __name__ == "__main__":
    main()
