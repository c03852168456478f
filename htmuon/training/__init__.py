"""Training one run of a recipe: its settings, the loop, checkpoints, metrics, several processes.

config = dataclasses.replace(RECIPES["llama-tiny"](), steps=100)
result = train(config, "runs/first")
"""

from htmuon.training.loop import TrainingStoppedError
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.run_result import Observer, RunResult
from htmuon.training.train import train

__all__ = ["Observer", "OptimizerConfig", "RunConfig", "RunResult", "TrainingStoppedError", "train"]
