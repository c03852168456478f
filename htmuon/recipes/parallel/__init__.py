"""How the processes of one run share its work."""

from htmuon.recipes.parallel.base import Parallel, in_turn, share
from htmuon.recipes.parallel.launch import device_of_process, opened, rank_of_process

__all__ = ["Parallel", "device_of_process", "in_turn", "opened", "rank_of_process", "share"]
