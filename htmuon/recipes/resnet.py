"""The ResNet recipes of the HTMuon paper: CIFAR-10 and CIFAR-100.

The paper does not publish its settings for images. Augmentation, batch and epochs are the usual ones for ResNets on
CIFAR, those of github.com/kuangliu/pytorch-cifar and github.com/weiaicunzai/pytorch-cifar100: 4 pixels of padding,
random crops and flips, 200 epochs in batches of 128.
"""

from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.image_models import Depth, ResNetConfig
from htmuon.training.run_config import RECIPES, OptimizerConfig, RunConfig

TRAINING_IMAGES, BATCH, EPOCHS = 50_000, 128, 200
EPOCH = TRAINING_IMAGES // BATCH


@RECIPES.register("resnet18-cifar10")
def resnet18_cifar10() -> RunConfig:
    """ResNet-18, 11 M parameters, on CIFAR-10 from the hub or local files: 200 epochs, crops and flips.

    Example:
        >>> resnet18_cifar10().model
        ResNetConfig(depth=18, width=64, stem_stride=1)
    """
    return _recipe("resnet18-cifar10", 18, "hf://datasets/uoft-cs/cifar10")


@RECIPES.register("resnet50-cifar100")
def resnet50_cifar100() -> RunConfig:
    """ResNet-50, 24 M parameters, on CIFAR-100 from the hub or local files: 200 epochs, crops and flips.

    Example:
        >>> resnet50_cifar100().steps
        78125
    """
    return _recipe("resnet50-cifar100", 50, "hf://datasets/uoft-cs/cifar100")


def _recipe(name: str, depth: Depth, path: str) -> RunConfig:
    return RunConfig(
        recipe=name,
        data=ImageConfig(path=path, crop_padding=4, flip=True, label_smoothing=0.0),
        model=ResNetConfig(depth=depth, width=64, stem_stride=1),
        # lr * weight_decay is that of the usual SGD, 0.1 * 5e-4: it decides how long a weight remembers.
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=3e-3, weight_decay=2.5e-3),
        steps=EPOCHS * TRAINING_IMAGES // BATCH,
        batch_size=BATCH,
        eval_interval=EPOCH,
        log_interval=EPOCH // 10,
        checkpoint_interval=EPOCH,
        monitor_every=10 * EPOCH,
    )
