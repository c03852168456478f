"""What one optimizer step costs and how exact it is, for every method and beside other libraries.

result = bench(BenchConfig(model="llama-60m", layers=2))
"""

from htmuon.bench.bench_config import BenchConfig
from htmuon.bench.bench_result import BenchResult
from htmuon.bench.measure import bench

__all__ = ["BenchConfig", "BenchResult", "bench"]
