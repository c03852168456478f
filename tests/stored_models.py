"""Checkpoints written to disk for the tests of `htmuon analyze`."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def heavy(rows: int, columns: int, seed: int = 0, exponent: float = 0.6) -> Tensor:
    """A matrix with singular values i^-exponent and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    short = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, short, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, short, generator=generator))
    return left * torch.arange(1, short + 1) ** -exponent @ right.T


def model(layers: int = 2, seed: int = 0, prefix: str = "model.") -> dict[str, Tensor]:
    """Tensors named as those of a small LLaMA."""
    tensors = {f"{prefix}embed_tokens.weight": heavy(64, 24, seed), "lm_head.weight": heavy(64, 24, seed + 1)}
    for layer in range(layers):
        place = f"{prefix}layers.{layer}"
        tensors |= {
            f"{place}.self_attn.q_proj.weight": heavy(24, 24, seed + 10 * layer + 2),
            f"{place}.mlp.up_proj.weight": heavy(48, 24, seed + 10 * layer + 3),
            f"{place}.norm.weight": torch.ones(24),
        }
    return tensors


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """Write a safetensors file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_shards(folder: Path, tensors: dict[str, Tensor], count: int = 2, *, index: bool = True) -> list[Path]:
    """Write tensors to several files, in turn, with or without the index that Hugging Face puts beside them."""
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    parts = [dict(list(tensors.items())[i::count]) for i in range(count)]
    files = [write(folder / name, part) for name, part in zip(names, parts, strict=True)]
    if index:
        weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files
