"""The vision transformer of the HTMuon paper, on ImageNet-1k.

The paper does not publish its settings for images. Shape, augmentations, batch, epochs, warm-up, weight decay and the
learning rate of AdamW are those of DeiT-Ti (Touvron et al., arXiv:2012.12877, github.com/facebookresearch/deit),
without its repeated augmentation.
"""

from htmuon.data.images.image_config import ImageStreamConfig
from htmuon.data.images.image_models import ViTConfig
from htmuon.recipes.registry import RECIPES
from htmuon.training.run_config import OptimizerConfig, RunConfig

TRAINING_IMAGES, BATCH, ACCUMULATION, EPOCHS = 1_281_167, 256, 4, 300
EPOCH = TRAINING_IMAGES // (BATCH * ACCUMULATION)


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
        steps=EPOCHS * EPOCH,
        batch_size=BATCH,
        accumulation=ACCUMULATION,
        warmup_fraction=5 / EPOCHS,
        eval_interval=EPOCH,
        log_interval=50,
        checkpoint_interval=EPOCH,
        monitor_every=10 * EPOCH,
    )
