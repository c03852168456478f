"""Which parameters of a model are matrices for the spectral side, and how each of them stores its matrices."""

from htmuon.routing.split import Interleaved

__all__ = ["Interleaved"]
