"""Comparisons of optimizers: learning rates tuned alike, runs of several seeds, one report.

config = CompareConfig(run=RECIPES["llama-tiny"](), out=Path("runs/tiny"), optimizers=("muon", "htmuon"))
print(htmuon.compare.comparing.compare(config, command="my script").verdict)

The settings are exported here and load neither matplotlib nor jinja2; `htmuon.compare.comparing` draws and needs both.
"""

from htmuon.compare.compare_config import DEFAULT_OPTIMIZERS, CompareConfig
from htmuon.compare.grid import GridConfig

__all__ = ["DEFAULT_OPTIMIZERS", "CompareConfig", "GridConfig"]
