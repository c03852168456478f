"""Recipes: named settings of whole runs, the paper's and small ones that run anywhere.

config = dataclasses.replace(RECIPES["llama-tiny"](), steps=100)
"""

from htmuon._registry import import_all
from htmuon.recipes.tiny import llama_tiny as llama_tiny
from htmuon.recipes.tiny import resnet_tiny as resnet_tiny
from htmuon.training.run_config import RECIPES as RECIPES

__all__ = ["RECIPES", "llama_tiny", "resnet_tiny"]

import_all(__name__)
