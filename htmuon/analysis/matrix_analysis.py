"""Everything that is measured about a weight matrix, for many matrices at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from htmuon.analysis.marchenko_pastur import marchenko_pastur_edge
from htmuon.analysis.power_law import ESTIMATORS, MIN_TAIL_SIZE, Estimator, PowerLawFit, fit_power_laws
from htmuon.analysis.spectra import singular_values, spectral_entropy, squared, stable_rank

MatrixStatus = Literal["ok", "too_small", "zero", "not_finite"]

# Matrices are stacked up to this many elements: 128 MB in float64, as much again for their Gram matrices.
_STACK_ELEMENTS = 2**24

_MESSAGES: dict[MatrixStatus, str] = {
    "ok": "the spectrum was measured",
    "too_small": f"the shorter side is below {MIN_TAIL_SIZE}: too few eigenvalues for a fit",
    "zero": "all entries are zero: there is no spectrum to describe",
    "not_finite": "some entries are not finite",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixAnalysis:
    """What `analyze_matrices` found about one matrix; numbers are NaN where a status says why.

    Attributes:
        name: the name it was given, with its index for a matrix of a stack.
        shape: (rows, columns) of the matrix `[out, in]`.
        fits: power-law fits of the eigenvalues by the name of the estimator.
        sigma: `[r]` singular values, descending, on the CPU.
        stable_rank: `sum sigma^2 / sigma_1^2`.
        spectral_entropy: entropy of `sigma^2 / sum sigma^2` divided by ln r, between 0 and 1.
        frobenius_norm: `sqrt(sum sigma^2)`.
        spectral_norm: `sigma_1`.
        marchenko_pastur_edge: upper edge of the noise bulk, in the units of the eigenvalues `sigma^2`.
        spikes: number of eigenvalues beyond the edge.
        alpha_weighted: `alpha log10(sigma_1^2)` with the alpha of the "ks" fit.
        randomized: the same for a copy with permuted entries, where it was asked for.
        status: "ok", or why there are no numbers.
    """

    name: str
    shape: tuple[int, int]
    fits: Mapping[Estimator, PowerLawFit]
    sigma: Tensor
    stable_rank: float
    spectral_entropy: float
    frobenius_norm: float
    spectral_norm: float
    marchenko_pastur_edge: float
    spikes: int
    alpha_weighted: float
    status: MatrixStatus
    randomized: "MatrixAnalysis | None" = None

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self.status]


def analyze_matrices(
    matrices: Mapping[str, Tensor], *, estimators: Sequence[Estimator] = ESTIMATORS, randomized: bool = False
) -> list[MatrixAnalysis]:
    """Measure the spectrum of every matrix: fits, ranks, norms, Marchenko-Pastur edge.

    Equal shapes are computed as one stack, on the device of the tensors and in bounded memory.

    Args:
        matrices: `[*batch, m, n]` by name; each matrix of a batch has a result of its own, named `name[i]`.
        estimators: which power-law fits to make.
        randomized: also measure a copy whose entries are permuted, which keeps their distribution and
            destroys their correlations; drawn with a fixed seed, the global random state is left alone.

    Returns:
        One result per matrix, in the order given.

    Raises:
        ValueError: a tensor has fewer than two dims, or an estimator is unknown.

    Example:
        >>> import torch
        >>> weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
        >>> [result] = analyze_matrices({"weight": weight})
        >>> result.name, result.shape, result.status, result.spikes
        ('weight', (128, 64), 'ok', 0)

    Not for convolution kernels as they are: give `weight.flatten(1)`, or `weight.movedim((0, 1), (-2, -1))` for a
    matrix per position of the kernel.
    """
    parts = [part for name, tensor in matrices.items() for part in _matrices_of(name, tensor)]
    results: dict[int, MatrixAnalysis] = {}
    for stack in _stacks_of_equal_shape([matrix for _, matrix in parts]):
        names = [parts[i][0] for i in stack]
        stacked = torch.stack([parts[i][1].detach() for i in stack])
        results.update(zip(stack, _analyze_stack(names, stacked, estimators, randomized), strict=True))
    return [results[i] for i in range(len(parts))]


def _matrices_of(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.ndim < 2:
        raise ValueError(
            f"a matrix must have at least two dims [*batch, m, n]; got shape {tuple(tensor.shape)} for {name!r}; "
            "leave vectors out."
        )
    if tensor.ndim == 2:
        yield name, tensor
        return
    for index in product(*(range(size) for size in tensor.shape[:-2])):
        yield f"{name}[{', '.join(map(str, index))}]", tensor[index]


def _stacks_of_equal_shape(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of matrices to be computed together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault((tuple(matrix.shape), matrix.dtype, matrix.device), []).append(i)
    for group in groups.values():
        size = max(1, _STACK_ELEMENTS // max(1, matrices[group[0]].numel()))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _analyze_stack(
    names: Sequence[str], stack: Tensor, estimators: Sequence[Estimator], randomized: bool
) -> list[MatrixAnalysis]:
    _, m, n = stack.shape
    sigma = singular_values(stack)
    finite = torch.isfinite(sigma).all(dim=1)
    eigenvalues = squared(sigma)
    edges, spikes = marchenko_pastur_edge(eigenvalues, (m, n))
    fits = {estimator: fit_power_laws(eigenvalues, estimator) for estimator in estimators}
    copies: Sequence[MatrixAnalysis | None] = [None] * len(names)
    if randomized:
        copies = _analyze_stack(names, _permuted_entries(stack), estimators, randomized=False)
    columns = torch.stack(
        [
            stable_rank(sigma).double(),
            spectral_entropy(sigma).double(),
            torch.linalg.vector_norm(sigma.double(), dim=1),
            sigma.double().amax(dim=1) if min(m, n) else sigma.new_zeros(len(names)).double(),
            edges.double(),
            spikes.double(),
        ]
    ).cpu()
    sigma = sigma.cpu()
    results = []
    for i, name in enumerate(names):
        rank, entropy, frobenius, spectral, edge, count = columns[:, i].tolist()
        status: MatrixStatus = "ok"
        if not finite[i]:
            status = "not_finite"
        elif frobenius == 0:
            status = "zero"
        elif min(m, n) < MIN_TAIL_SIZE:
            status = "too_small"
        own_fits = {estimator: fits[estimator][i] for estimator in estimators}
        alpha = own_fits["ks"].alpha if "ks" in own_fits else math.nan
        described = status in ("ok", "too_small")
        results.append(
            MatrixAnalysis(
                name=name,
                shape=(m, n),
                fits=own_fits,
                sigma=sigma[i],
                stable_rank=rank if described else math.nan,
                spectral_entropy=entropy if described else math.nan,
                frobenius_norm=frobenius,
                spectral_norm=spectral,
                marchenko_pastur_edge=edge if status == "ok" else math.nan,
                spikes=int(count) if status == "ok" else 0,
                alpha_weighted=alpha * math.log10(spectral**2) if status == "ok" else math.nan,
                status=status,
                randomized=copies[i],
            )
        )
    return results


def _permuted_entries(stack: Tensor) -> Tensor:
    """Each matrix with its entries in random order: `[batch, m, n]`."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(stack[0].numel(), generator=generator).to(stack.device)
    return stack.flatten(1)[:, order].view_as(stack)
