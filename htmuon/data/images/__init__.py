"""Image classification: images in memory, or decoded while the model trains; ResNets and vision transformers.

images, model = ImageConfig(path="digits.npz"), ResNetConfig(depth=18)
"""

from htmuon._registry import import_all
from htmuon.data.images.image_config import ImageConfig, ImageStreamConfig
from htmuon.data.images.image_models import ResNetConfig, ViTConfig
from htmuon.data.images.image_stream import ImageStreamSource
from htmuon.data.images.images_in_memory import ImageSource

__all__ = [
    "ImageConfig",
    "ImageSource",
    "ImageStreamConfig",
    "ImageStreamSource",
    "ResNetConfig",
    "ViTConfig",
]

import_all(__name__)
