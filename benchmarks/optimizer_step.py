"""One optimizer step over all hidden matrices of LLaMA-60M, against torch.optim.Muon and an SVD per matrix.

    python benchmarks/optimizer_step.py --json benchmarks/results/optimizer_step.json

Every candidate steps on copies of the same weights and gradients, in turn, in one run; the ratio is the median over
rounds of its time by that of `torch.optim.Muon` in the same round. The error columns are relative Frobenius errors of
the mapped matrix against a float64 SVD, on 512 x 1376 matrices in float32 with a log-uniform spectrum.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from timing import conditions, ratios, side_by_side, write
from torch import Tensor, nn

import htmuon

LAYERS = 8
SHAPES = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)]
POWER = 0.125
ERROR_CONDITIONS = (1e2, 1e3, 1e4, 1e6)


def weights_with_gradients() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(0.02 * torch.randn(*shape, generator=generator)) for shape in SHAPES * LAYERS]
    for p in parameters:
        p.grad = 0.01 * torch.randn(p.shape, generator=generator)
    return parameters


class SvdPerMatrix(torch.optim.Optimizer):
    """The plain way: HTMuon with one float32 SVD for every matrix, one after the other."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            buffer = state.setdefault("momentum_buffer", torch.zeros_like(p))
            buffer.lerp_(p.grad, 0.05)
            update = svd_power(p.grad.lerp(buffer, 0.95), POWER)
            p.mul_(1 - 0.02 * 0.1).add_(update, alpha=-0.02 * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def svd_power(matrix: Tensor, power: float) -> Tensor:
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u * sigma**power) @ vh


def steps() -> dict[str, Callable[[], object]]:
    optimizers: dict[str, torch.optim.Optimizer] = {
        "torch.optim.Muon": torch.optim.Muon(weights_with_gradients(), lr=0.02),
        "htmuon.Muon newton_schulz": htmuon.Muon(weights_with_gradients(), method="newton_schulz"),
        "htmuon.HTMuon eigh": htmuon.HTMuon(weights_with_gradients(), method="eigh"),
        "htmuon.HTMuon svd": htmuon.HTMuon(weights_with_gradients(), method="svd"),
        "SVD per matrix, float32": SvdPerMatrix(weights_with_gradients(), {}),
    }
    return {name: optimizer.step for name, optimizer in optimizers.items()}


def errors() -> dict[str, dict[str, float]]:
    """Relative Frobenius error against a float64 SVD, by candidate and condition."""
    maps: dict[str, Callable[[Tensor], Tensor]] = {
        "htmuon.HTMuon eigh": lambda m: htmuon.spectral_power(m, POWER, method="eigh"),
        "htmuon.HTMuon svd": lambda m: htmuon.spectral_power(m, POWER, method="svd"),
        "SVD per matrix, float32": lambda m: svd_power(m, POWER),
    }
    table: dict[str, dict[str, float]] = {name: {} for name in maps}
    generator = torch.Generator().manual_seed(1)
    u = torch.linalg.qr(torch.randn(512, 512, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(1376, 512, generator=generator, dtype=torch.float64)).Q
    for condition in ERROR_CONDITIONS:
        sigma = condition ** -torch.linspace(0, 1, 512, dtype=torch.float64)
        matrix = ((u * sigma) @ v.mT).to(torch.float32)
        exact = svd_power(matrix.to(torch.float64), POWER)
        for name, function in maps.items():
            table[name][f"{condition:.0e}"] = ((function(matrix) - exact).norm() / exact.norm()).item()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default 7)")
    parser.add_argument("--json", type=Path, help="where to store the results")
    arguments = parser.parse_args()
    seconds = side_by_side(steps(), arguments.rounds)
    ratio, error = ratios(seconds, "torch.optim.Muon"), errors()
    heads = "".join(f"{condition:>8.0e}" for condition in ERROR_CONDITIONS)
    print(f"{'candidate':28}{'seconds':>9}{'ratio':>7}   error at condition:{heads}")
    for name, values in seconds.items():
        cells = "".join(f"{value:8.0e}" for value in error.get(name, {}).values())
        print(f"{name:28}{statistics.median(values):9.3f}{ratio[name]:7.2f}{'':22}{cells}")
    write(arguments.json, {**conditions(), "seconds": seconds, "ratio": ratio, "error": error})


if __name__ == "__main__":
    main()
