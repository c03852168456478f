"""How the processes of one run share its work."""

from htmuon.recipes.parallel.base import Parallel, forward_seed, in_turn, share
from htmuon.recipes.parallel.launch import device_of_process, opened, rank_of_process, was_restarted

__all__ = [
    "Parallel",
    "device_of_process",
    "forward_seed",
    "in_turn",
    "opened",
    "rank_of_process",
    "share",
    "was_restarted",
]
