"""What the scripts here time with: that of `htmuon bench`."""

from htmuon.bench.timing import conditions, ratios, side_by_side, write

__all__ = ["conditions", "ratios", "side_by_side", "write"]
