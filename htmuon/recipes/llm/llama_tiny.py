"""The recipe that runs anywhere: a LLaMA of 2.2 million parameters on the text inside the package."""

from htmuon.recipes.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig
from htmuon.recipes.registry import RECIPES


@RECIPES.register("llama-tiny")
def llama_tiny() -> RunConfig:
    """A 6-layer LLaMA (1.2 M parameters without embeddings) on the State of the Union addresses; needs no network.

    Example:
        >>> llama_tiny().model.num_layers
        6
    """
    return RunConfig(
        recipe="llama-tiny",
        data=DataConfig(vocab_size=4096, sequence_length=128),
        model=ModelConfig(hidden_size=128, intermediate_size=352, num_layers=6, num_heads=4),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.032, weight_decay=0.1),
        steps=200,
        batch_size=16,
        eval_interval=50,
        log_interval=10,
        checkpoint_interval=50,
        monitor_every=50,
    )
