"""Spectral analysis of weights and updates: what an optimizer does to the matrices of a model."""

from htmuon.analysis.matrix_analysis import MatrixAnalysis, analyze_matrices
from htmuon.analysis.monitor import SpectralMonitor
from htmuon.analysis.power_law import ESTIMATORS, Estimator, PowerLawFit, fit_power_law, fit_power_laws
from htmuon.analysis.signal import signal_by_sigma
from htmuon.analysis.spectra import eigenvalues, singular_values, spectral_entropy, stable_rank

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "MatrixAnalysis",
    "PowerLawFit",
    "SpectralMonitor",
    "analyze_matrices",
    "eigenvalues",
    "fit_power_law",
    "fit_power_laws",
    "signal_by_sigma",
    "singular_values",
    "spectral_entropy",
    "stable_rank",
]
