"""What one optimizer step costs and how exact it is, for every method and beside other libraries.

result = bench(BenchConfig(model="llama-60m", layers=2))
"""

from htmuon.recipes.bench.config import BenchConfig
from htmuon.recipes.bench.result import BenchResult
from htmuon.recipes.bench.run import bench

__all__ = ["BenchConfig", "BenchResult", "bench"]
