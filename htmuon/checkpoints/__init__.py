"""The spectra of the matrices of a checkpoint: power-law fits, ranks, noise edges; by layer, type and depth.

analysis = analyze(AnalyzeConfig(path=Path("model.safetensors")))
"""

from htmuon.checkpoints.analysis_result import Analysis, CheckpointAnalysis, Row
from htmuon.checkpoints.analyze import AnalyzeConfig, analyze

__all__ = ["Analysis", "AnalyzeConfig", "CheckpointAnalysis", "Row", "analyze"]
