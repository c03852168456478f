"""The network of an image run: a ResNet with a stem for small images, or a vision transformer, both from `timm`."""

import torch

from htmuon.recipes.extras import require
from htmuon.recipes.vision.config import Depth, ResNetConfig, ViTConfig

BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}


def build_network(
    config: ResNetConfig | ViTConfig, *, classes: int, channels: int, size: tuple[int, int], seed: int
) -> torch.nn.Module:
    """A float32 network on the CPU whose weights depend on the arguments alone.

    Args:
        config: the shape.
        classes: outputs of the last layer.
        channels: of an image.
        size: height and width of an image.
        seed: of the initial weights.

    Raises:
        ValueError: the images do not divide into patches.
    """
    if isinstance(config, ResNetConfig):
        return build_resnet(config, classes=classes, channels=channels, seed=seed)
    return build_vit(config, classes=classes, channels=channels, size=size, seed=seed)


def build_resnet(config: ResNetConfig, *, classes: int, channels: int, seed: int) -> torch.nn.Module:
    """A float32 `timm` ResNet on the CPU whose weights depend on the arguments alone.

    The stem is that of ResNets for CIFAR: one 3x3 convolution and no pooling. The random state of the
    caller is not changed.

    Args:
        config: the shape.
        classes: outputs of the last layer.
        channels: of an image.
        seed: of the initial weights.
    """
    resnet = require("timm.models.resnet", extra="vision")
    width = config.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = resnet.ResNet(
            resnet.Bottleneck if config.depth == 50 else resnet.BasicBlock,
            BLOCKS[config.depth],
            num_classes=classes,
            in_chans=channels,
            channels=tuple(width * 2**stage for stage in range(4)),
            # timm's plain stem is always 64 wide; of the deep one, which is replaced, only the width is used.
            stem_type="deep",
            stem_width=width // 2,
        )
        stem = torch.nn.Conv2d(channels, width, 3, stride=config.stem_stride, padding=1, bias=False)
        torch.nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as timm's other convolutions
    model.conv1 = stem
    model.maxpool = torch.nn.Identity()
    return model


def build_vit(config: ViTConfig, *, classes: int, channels: int, size: tuple[int, int], seed: int) -> torch.nn.Module:
    """A float32 `timm` VisionTransformer on the CPU whose weights depend on the arguments alone.

    Args:
        config: the shape.
        classes: outputs of the last layer.
        channels: of an image.
        size: height and width of an image.
        seed: of the initial weights.

    Raises:
        ValueError: the images do not divide into patches.

    Example:
        >>> model = build_vit(ViTConfig(patch_size=4, num_layers=1), classes=10, channels=3, size=(32, 32), seed=0)
        >>> model.pos_embed.shape
        torch.Size([1, 65, 192])
    """
    if any(side % config.patch_size for side in size):
        raise ValueError(
            f"height and width of an image must be multiples of patch_size, which is {config.patch_size}; they are "
            f"{size[0]} and {size[1]}. Choose another with --model.patch-size."
        )
    vit = require("timm.models.vision_transformer", extra="vision")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = vit.VisionTransformer(
            img_size=size,
            patch_size=config.patch_size,
            in_chans=channels,
            num_classes=classes,
            embed_dim=config.hidden_size,
            depth=config.num_layers,
            num_heads=config.num_heads,
            drop_path_rate=config.drop_path,
        )
    return model
