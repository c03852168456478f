"""The LLaMA models of the HTMuon paper, by name."""

from htmuon.recipes.config import ModelConfig

# configs/*.json of the paper's code (arXiv 2603.10067).
PAPER_VOCABULARY = 32000
PAPER_SEQUENCE_LENGTH = 256
PAPER_MODELS: dict[str, ModelConfig] = {
    "llama-60m": ModelConfig(hidden_size=512, intermediate_size=1376, num_layers=8, num_heads=8),
    "llama-135m": ModelConfig(hidden_size=768, intermediate_size=2048, num_layers=12, num_heads=12),
    "llama-350m": ModelConfig(hidden_size=1024, intermediate_size=2736, num_layers=24, num_heads=16),
    "llama-1b": ModelConfig(hidden_size=2048, intermediate_size=5461, num_layers=24, num_heads=32),
}
