"""Where a whole matrix is assembled."""

from htmuon.layouts.agreement import add_up, agree, check_alike
from htmuon.layouts.base import Bracket, Layout, LoadBalancer, Stack, Stages
from htmuon.layouts.select import (
    Layouts,
    allocate,
    is_distributed,
    is_flattened,
    part,
    part_like,
    several_processes,
    slice_like,
)
from htmuon.layouts.single import Single

__all__ = [
    "Bracket",
    "Layout",
    "Layouts",
    "LoadBalancer",
    "Single",
    "Stack",
    "Stages",
    "add_up",
    "agree",
    "allocate",
    "check_alike",
    "is_distributed",
    "is_flattened",
    "part",
    "part_like",
    "several_processes",
    "slice_like",
]
