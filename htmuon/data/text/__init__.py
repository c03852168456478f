"""Language modelling: text in memory, or read while the model trains; LLaMA and GPT-2.

text, model = TextConfig(path="novels/", vocab_size=4096), GPT2Config(num_layers=6)
"""

from htmuon._registry import import_all
from htmuon.data.text.language_models import GPT2Config, LlamaConfig
from htmuon.data.text.text_config import TextConfig, TextStreamConfig
from htmuon.data.text.text_in_memory import LanguageSource
from htmuon.data.text.text_stream import TextStreamSource

__all__ = [
    "GPT2Config",
    "LanguageSource",
    "LlamaConfig",
    "TextConfig",
    "TextStreamConfig",
    "TextStreamSource",
]

import_all(__name__)
