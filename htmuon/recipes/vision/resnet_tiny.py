"""The image recipe that runs anywhere: a small ResNet on the part of Fashion-MNIST inside the package."""

from htmuon.recipes.config import OptimizerConfig, RunConfig
from htmuon.recipes.registry import RECIPES
from htmuon.recipes.vision.config import ImageDataConfig, ResNetConfig


@RECIPES.register("resnet-tiny")
def resnet_tiny() -> RunConfig:
    """A ResNet-10 of 0.7 M parameters on 10,000 images of Fashion-MNIST; needs no network.

    Example:
        >>> resnet_tiny().model
        ResNetConfig(depth=10, width=24, stem_stride=2)
    """
    return RunConfig(
        recipe="resnet-tiny",
        data=ImageDataConfig(crop_padding=2, flip=True, label_smoothing=0.1),
        model=ResNetConfig(depth=10, width=24, stem_stride=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.04, adamw_lr=0.016, weight_decay=0.1),
        steps=624,
        batch_size=128,
        eval_interval=78,
        log_interval=26,
        checkpoint_interval=78,
        monitor_every=156,
    )
