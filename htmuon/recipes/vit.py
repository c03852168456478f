"""Vision transformers: on CIFAR-10, and that of the HTMuon paper on ImageNet-1k.

The paper does not publish its settings for images.

CIFAR-10: the augmentations are those of DeiT (Touvron et al., arXiv:2012.12877) with the crops that its code has for
CIFAR; patches of 4x4 and batches of 128 are those of Lee et al., "Vision Transformer for Small-Size Datasets"
(arXiv:2112.13492), and the 200 epochs those of the ResNets here.

ImageNet-1k: shape, augmentations, batch, epochs, warm-up, weight decay and the learning rate of AdamW are those of
DeiT-Ti (arXiv:2012.12877, github.com/facebookresearch/deit), without its repeated augmentation.
"""

from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.data.images.image_models import ViTConfig
from htmuon.training.run_config import RECIPES, OptimizerConfig, RunConfig

CIFAR_IMAGES, CIFAR_BATCH, CIFAR_EPOCHS = 50_000, 128, 200
CIFAR_EPOCH = CIFAR_IMAGES // CIFAR_BATCH
IMAGENET_IMAGES, IMAGENET_BATCH, ACCUMULATION, IMAGENET_EPOCHS = 1_281_167, 256, 4, 300
IMAGENET_EPOCH = IMAGENET_IMAGES // (IMAGENET_BATCH * ACCUMULATION)


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
        steps=CIFAR_EPOCHS * CIFAR_IMAGES // CIFAR_BATCH,
        batch_size=CIFAR_BATCH,
        warmup_fraction=0.05,
        eval_interval=CIFAR_EPOCH,
        log_interval=CIFAR_EPOCH // 10,
        checkpoint_interval=CIFAR_EPOCH,
        monitor_every=10 * CIFAR_EPOCH,
    )


@RECIPES.register("vit-tiny-imagenet")
def vit_tiny_imagenet() -> RunConfig:
    """ViT-Tiny, 6 M parameters, on ImageNet-1k from the hub or local files: 300 epochs with DeiT's augmentations.

    Example:
        >>> vit_tiny_imagenet().model
        ViTConfig(patch_size=16, hidden_size=192, num_layers=12, num_heads=3, drop_path=0.1)
    """
    return RunConfig(
        recipe="vit-tiny-imagenet",
        data=ImageStreamConfig(path="hf://datasets/ILSVRC/imagenet-1k", image_size=224, crop="resized"),
        model=ViTConfig(patch_size=16),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=1e-3, weight_decay=0.05),
        steps=IMAGENET_EPOCHS * IMAGENET_EPOCH,
        batch_size=IMAGENET_BATCH,
        accumulation=ACCUMULATION,
        warmup_fraction=5 / IMAGENET_EPOCHS,
        eval_interval=IMAGENET_EPOCH,
        log_interval=50,
        checkpoint_interval=IMAGENET_EPOCH,
        monitor_every=10 * IMAGENET_EPOCH,
    )
