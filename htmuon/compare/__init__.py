"""Comparisons of optimizers: learning rates tuned alike, runs of several seeds, one report.

config = CompareConfig(run=RECIPES["llama-tiny"](), out=Path("runs/tiny"), optimizers=("muon", "htmuon"))
print(compare(config, command="my script").verdict)

Only drawing the report needs matplotlib and jinja2; they are imported then.
"""

from htmuon.compare.compare_config import DEFAULT_OPTIMIZERS, CompareConfig
from htmuon.compare.comparing import compare
from htmuon.compare.comparison import ComparisonResult
from htmuon.compare.grid import GridConfig

__all__ = ["DEFAULT_OPTIMIZERS", "CompareConfig", "ComparisonResult", "GridConfig", "compare"]
