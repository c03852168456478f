"""The network of an image run: a ResNet from `timm`, with new weights and a stem for small images."""

import torch

from htmuon.recipes.extras import require
from htmuon.recipes.vision.config import Depth, ResNetConfig

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
