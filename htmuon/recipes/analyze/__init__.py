"""The spectra of the matrices of a checkpoint: power-law fits, ranks, noise edges; by layer, type and depth.

analysis = analyze(AnalyzeConfig(path=Path("model.safetensors")))
"""

from htmuon.recipes.analyze.config import AnalyzeConfig
from htmuon.recipes.analyze.result import Analysis, CheckpointAnalysis, Row
from htmuon.recipes.analyze.run import analyze

__all__ = ["Analysis", "AnalyzeConfig", "CheckpointAnalysis", "Row", "analyze"]
