"""A vision transformer on CIFAR-10.

The HTMuon paper does not publish its settings for images. The augmentations are those of DeiT (Touvron et al.,
arXiv:2012.12877) with the crops that its code has for CIFAR; patches of 4x4 and batches of 128 are those of Lee et al.,
"Vision Transformer for Small-Size Datasets" (arXiv:2112.13492), and the 200 epochs those of the ResNets here.
"""

from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.data.images.image_models import ViTConfig
from htmuon.recipes.registry import RECIPES
from htmuon.training.run_config import OptimizerConfig, RunConfig

TRAINING_IMAGES, BATCH, EPOCHS = 50_000, 128, 200
EPOCH = TRAINING_IMAGES // BATCH


@RECIPES.register("vit-tiny-cifar10")
def vit_tiny_cifar10() -> RunConfig:
    """ViT-Tiny, 5 M parameters, on CIFAR-10 from the hub or local files: 200 epochs with DeiT's augmentations.

    Example:
        >>> vit_tiny_cifar10().model
        ViTConfig(patch_size=4, hidden_size=192, num_layers=12, num_heads=3, drop_path=0.1)
    """
    return RunConfig(
        recipe="vit-tiny-cifar10",
        data=ImageStreamConfig(path="hf://datasets/uoft-cs/cifar10", image_size=32, crop="padded"),
        model=ViTConfig(patch_size=4),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=1e-3, weight_decay=0.05),
        steps=EPOCHS * TRAINING_IMAGES // BATCH,
        batch_size=BATCH,
        warmup_fraction=0.05,
        eval_interval=EPOCH,
        log_interval=EPOCH // 10,
        checkpoint_interval=EPOCH,
        monitor_every=10 * EPOCH,
    )
