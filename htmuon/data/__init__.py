"""Data and the models that learn from it, by kind: a new kind is one new file in the room of its task.

data, model = TextConfig(vocab_size=512), LlamaConfig(num_layers=2)
"""

from htmuon._registry import import_all
from htmuon.data.images import (
    ImageConfig,
    ImageSource,
    ImageStreamConfig,
    ImageStreamSource,
    ResNetConfig,
    ViTConfig,
)
from htmuon.data.text import (
    GPT2Config,
    LanguageSource,
    LlamaConfig,
    TextConfig,
    TextStreamConfig,
    TextStreamSource,
)

__all__ = [
    "GPT2Config",
    "ImageConfig",
    "ImageSource",
    "ImageStreamConfig",
    "ImageStreamSource",
    "LanguageSource",
    "LlamaConfig",
    "ResNetConfig",
    "TextConfig",
    "TextStreamConfig",
    "TextStreamSource",
    "ViTConfig",
]

import_all(__name__)
