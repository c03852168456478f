"""Heavy-tailed spectral optimizers for PyTorch."""

__version__ = "0.1.0"
