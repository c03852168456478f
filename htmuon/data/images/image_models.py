"""Networks for images by their shape: a ResNet for small images, or a vision transformer, both of `timm`."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from htmuon._checks import check_number, check_whole
from htmuon._extras import require
from htmuon.training.run_config import MODELS, register_kind
from htmuon.training.task import TaskKind

Depth = Literal[10, 18, 34, 50]


@register_kind(MODELS)
@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a ResNet for small images: a stem of one 3x3 convolution, then four stages of halved resolution.

    Args:
        depth: layers with weights: 10 (one basic block per stage), 18, 34, or 50 (bottlenecks).
        width: channels of the first stage, an even number; each later stage has twice as many as the one before it.
        stem_stride: 1 keeps the resolution of the image for the first stage, 2 halves it.
    """

    kind: ClassVar[str] = "resnet"
    task: ClassVar[TaskKind] = "images"
    noun: ClassVar[str] = "ResNet"

    depth: Depth = 18
    width: int = 64
    stem_stride: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.depth not in get_args(Depth):
            raise ValueError(f"depth must be one of {', '.join(map(str, get_args(Depth)))}; got {self.depth!r}.")
        check_whole("width", self.width, 2)
        if self.width % 2:
            raise ValueError(f"width must be an even number; got {self.width}.")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride must be 1 or 2; got {self.stem_stride!r}.")

    def build_model(self, *, classes: int, channels: int, height: int, width: int, seed: int) -> torch.nn.Module:
        """`build_resnet`; images may be of any height and width."""
        return build_resnet(self, classes=classes, channels=channels, seed=seed)


@register_kind(MODELS)
@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The shape of a vision transformer with a class token and learned positions, as `timm` has it.

    Args:
        patch_size: height and width of a patch; the image's must be multiples of it.
        hidden_size: width of the residual stream; that of the MLP is four times as much.
        num_layers: number of blocks.
        num_heads: attention heads; they divide `hidden_size`.
        drop_path: share of the training images that skip the last block; it rises from 0 with the depth.
    """

    kind: ClassVar[str] = "vit"
    task: ClassVar[TaskKind] = "images"
    noun: ClassVar[str] = "vision transformer"

    patch_size: int = 16
    hidden_size: int = 192
    num_layers: int = 12
    num_heads: int = 3
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        for name in ("patch_size", "hidden_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads; got hidden_size={self.hidden_size}, "
                f"num_heads={self.num_heads}."
            )
        check_number("drop_path", self.drop_path, below=1.0)

    def build_model(self, *, classes: int, channels: int, height: int, width: int, seed: int) -> torch.nn.Module:
        """`build_vit`."""
        return build_vit(self, classes=classes, channels=channels, size=(height, width), seed=seed)


BLOCKS: dict[Depth, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}


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
