"""How far what a candidate computes is from a float64 singular value decomposition."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from htmuon._files import read_tensors
from htmuon.bench.candidates import Candidate
from htmuon.bench.shapes import Shape
from htmuon.spectral import SpectralMap

CONDITIONS = (1e2, 1e3, 1e4, 1e6)
# A larger short side is measured on matrices of this one and the same proportions: the oracle takes its cube.
LARGEST_SIDE = 1024
# Recorded matrices of one shape, in multiplications of their products: about a minute for the oracle on a laptop.
LARGEST_WORK = 2e10


@dataclass(frozen=True)
class Probe:
    """Matrices of one shape, on which every candidate is measured.

    Attributes:
        shape: their shape.
        matrices: float32, holding values of the parameters' dtype, by the names of their columns in the table.
    """

    shape: str
    matrices: dict[str, list[Tensor]]


def synthetic_probes(shapes: Sequence[Shape], dtype: torch.dtype, device: torch.device) -> list[Probe]:
    """Matrices with evenly spaced logarithms of the singular values, at several conditions, for each pair of sides."""
    probes = {}
    for shape in shapes:
        rows, columns = measured_sides(shape)
        # A matrix and its transpose cost and err the same.
        if (columns, rows) not in probes:
            probes[rows, columns] = _synthetic(rows, columns, dtype, device)
    return list(probes.values())


def measured_sides(shape: Shape) -> tuple[int, int]:
    """The sides of the matrices on which the errors of a shape are measured.

    Example:
        >>> measured_sides(Shape(512, 1376)), measured_sides(Shape(5461, 2048))
        ((512, 1376), (2730, 1024))
    """
    factor = min(1.0, LARGEST_SIDE / min(shape.rows, shape.columns))
    return math.floor(shape.rows * factor), math.floor(shape.columns * factor)


def _synthetic(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Probe:
    generator = torch.Generator().manual_seed(0)
    short = min(rows, columns)
    u, v = (_orthonormal(side, short, generator).to(device) for side in (rows, columns))
    matrices = {}
    for condition in CONDITIONS:
        sigma = condition ** -torch.linspace(0, 1, short, dtype=u.dtype, device=device)
        matrices[f"{condition:.0e}"] = [((u * sigma) @ v.mT).to(dtype).float()]
    return Probe(f"{rows}x{columns}", matrices)


def _orthonormal(side: int, columns: int, generator: torch.Generator) -> Tensor:
    q: Tensor = torch.linalg.qr(torch.randn(side, columns, generator=generator, dtype=torch.float64)).Q
    return q


def recorded_probes(path: Path, dtype: torch.dtype, device: torch.device) -> list[Probe]:
    """The matrices of a file, by shape; of many, some that are evenly spread over the file.

    Raises:
        ValueError: the file cannot be read, or holds no matrix.
    """
    try:
        tensors = read_tensors(path)
    except Exception as error:  # safetensors has its own class of errors, which need not be installed to be named
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"momentum must be a safetensors file, as benchmarks/record_momentum.py writes it; {path} cannot be read "
            f"({reason})."
        ) from error
    by_shape = defaultdict(list)
    for _, tensor in sorted(tensors.items()):
        if tensor.ndim == 2 and bool(tensor.isfinite().all()) and bool(tensor.any()):
            by_shape[tuple(tensor.shape)].append(tensor.to(device).to(dtype).float())
    if not by_shape:
        raise ValueError(f"momentum must be a file that holds matrices; {path} holds none that is finite and not zero.")
    return [
        Probe(f"{rows}x{columns}", {"recorded": evenly(matrices, LARGEST_WORK / (rows * columns * min(rows, columns)))})
        for (rows, columns), matrices in by_shape.items()
    ]


def evenly(matrices: list[Tensor], most: float) -> list[Tensor]:
    """At most so many of the matrices, evenly spread over them."""
    step = math.ceil(len(matrices) / max(1, math.floor(most)))
    return matrices[::step]


class Oracle:
    """What is exact for the matrices of a probe: `U g(S) V^T`, from one float64 decomposition of each.

    Args:
        probe: the matrices.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._factors = {
            column: [torch.linalg.svd(matrix.double(), full_matrices=False) for matrix in matrices]
            for column, matrices in probe.matrices.items()
        }

    def errors(self, candidate: Candidate, function: SpectralMap) -> dict[str, float]:
        """Relative Frobenius errors of a candidate, by column; of several matrices the median and the largest one."""
        found: dict[str, float] = {}
        for column, matrices in self.probe.matrices.items():
            bound = function.at(tuple(matrices[0].shape))
            exact = (_exact(u, sigma, vh, bound) for u, sigma, vh in self._factors[column])
            errors = relative_errors(candidate.mapped(matrices), exact)
            if column == "recorded":
                found |= {"median": statistics.median(errors), "largest": max(errors)}
            else:
                found[column] = errors[0]
        return found


def _exact(u: Tensor, sigma: Tensor, vh: Tensor, function: SpectralMap) -> Tensor:
    relative = sigma / sigma[0]
    kept = relative > torch.finfo(sigma.dtype).eps * max(u.shape[-2], vh.shape[-1])
    # The clamp keeps negative powers finite where the result is thrown away.
    weights = torch.where(kept, function(relative.clamp(min=torch.finfo(sigma.dtype).eps)), 0.0)
    return (u * (weights * sigma[0] ** function.degree)) @ vh


def relative_errors(results: Iterable[Tensor], exact: Iterable[Tensor]) -> list[float]:
    """Frobenius norms of the differences by those of the exact matrices."""
    return [
        float((result.double() - wanted).norm() / wanted.norm()) for result, wanted in zip(results, exact, strict=True)
    ]
