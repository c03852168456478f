"""The recipes that run anywhere: on the text and the images inside the package, without network or accelerator."""

from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.image_models import ResNetConfig
from htmuon.data.text.language_models import LlamaConfig
from htmuon.data.text.text_config import TextConfig
from htmuon.training.run_config import RECIPES, OptimizerConfig, RunConfig


@RECIPES.register("llama-tiny")
def llama_tiny() -> RunConfig:
    """A 6-layer LLaMA (1.2 M parameters without embeddings) on the State of the Union addresses; needs no network.

    Example:
        >>> llama_tiny().model.num_layers
        6
    """
    return RunConfig(
        recipe="llama-tiny",
        data=TextConfig(vocab_size=4096, sequence_length=128),
        model=LlamaConfig(hidden_size=128, intermediate_size=352, num_layers=6, num_heads=4),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.032, weight_decay=0.1),
        steps=200,
        batch_size=16,
        eval_interval=50,
        log_interval=10,
        checkpoint_interval=50,
        monitor_every=50,
    )


@RECIPES.register("resnet-tiny")
def resnet_tiny() -> RunConfig:
    """A ResNet-10 of 0.7 M parameters on 10,000 images of Fashion-MNIST; needs no network.

    Example:
        >>> resnet_tiny().model
        ResNetConfig(depth=10, width=24, stem_stride=2)
    """
    return RunConfig(
        recipe="resnet-tiny",
        data=ImageConfig(crop_padding=2, flip=True, label_smoothing=0.1),
        model=ResNetConfig(depth=10, width=24, stem_stride=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.04, adamw_lr=0.016, weight_decay=0.1),
        steps=624,
        batch_size=128,
        eval_interval=78,
        log_interval=26,
        checkpoint_interval=78,
        monitor_every=156,
    )
