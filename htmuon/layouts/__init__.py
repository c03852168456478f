"""Where a whole matrix is assembled."""

from htmuon.layouts.base import Bracket, Layout
from htmuon.layouts.single import Single

__all__ = ["Bracket", "Layout", "Single"]
