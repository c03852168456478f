"""Spectral analysis of weights and updates: what an optimizer does to the matrices of a model."""

from htmuon.analysis.power_law import ESTIMATORS, Estimator, PowerLawFit, fit_power_law
from htmuon.analysis.spectra import eigenvalues, singular_values, stable_rank

__all__ = ["ESTIMATORS", "Estimator", "PowerLawFit", "eigenvalues", "fit_power_law", "singular_values", "stable_rank"]
