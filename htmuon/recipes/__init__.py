"""Training recipes and the comparison of optimizers on them.

config = dataclasses.replace(RECIPES["llama-tiny"](), steps=100)
result = train(config, "runs/first")
"""

from htmuon.recipes.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from htmuon.recipes.llm import llama_tiny as llama_tiny
from htmuon.recipes.llm import paper as paper
from htmuon.recipes.llm.gpt2_config import GPT2Config
from htmuon.recipes.llm.stream_config import StreamConfig
from htmuon.recipes.observer import Observer, SilentObserver
from htmuon.recipes.optimizers import build_optimizer
from htmuon.recipes.registry import RECIPES
from htmuon.recipes.result import RunResult
from htmuon.recipes.trainer import TrainingStoppedError, train
from htmuon.recipes.vision import resnet_cifar as resnet_cifar
from htmuon.recipes.vision import resnet_tiny as resnet_tiny
from htmuon.recipes.vision import vit_cifar as vit_cifar
from htmuon.recipes.vision import vit_imagenet as vit_imagenet
from htmuon.recipes.vision.config import ImageDataConfig, ImageStreamConfig, ResNetConfig, ViTConfig

__all__ = [
    "RECIPES",
    "DataConfig",
    "GPT2Config",
    "ImageDataConfig",
    "ImageStreamConfig",
    "ModelConfig",
    "Observer",
    "OptimizerConfig",
    "ResNetConfig",
    "RunConfig",
    "RunResult",
    "SilentObserver",
    "StreamConfig",
    "TrainingStoppedError",
    "ViTConfig",
    "build_optimizer",
    "train",
]
