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
from htmuon.analysis.rounding import resolved_squares
from htmuon.analysis.spectra import check_matrix, singular_values, spectral_entropy, stable_rank

MatrixStatus = Literal["ok", "too_small", "zero", "not_finite"]

# Matrices are stacked up to this many elements: 128 MB in float64, as much again for their Gram matrices.
_STACK_ELEMENTS = 2**24

_MESSAGES: dict[MatrixStatus, str] = {
    "ok": "the spectrum was measured",
    "too_small": f"the shorter side is below {MIN_TAIL_SIZE}: too few eigenvalues for a fit",
    "zero": "all entries are zero: there is no spectrum to describe",
    "not_finite": "some entries are not finite, or so large that their squares are not",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixAnalysis:
    """What `analyze_matrices` found about one matrix; numbers are NaN where a status says why.

    Attributes:
        name: the name it was given, with its index for a matrix of a stack.
        shape: (rows, columns) of the matrix `[out, in]`.
        fits: power-law fits of the eigenvalues by the name of the estimator.
        sigma: `[r]` singular values, descending, on the CPU.
        eigenvalues: `[r]` those of W^T W, which were fitted: `sigma^2`, without what rounding made of zeros and of
            equal ones, on the CPU.
        stable_rank: `sum sigma^2 / sigma_1^2`.
        spectral_entropy: entropy of `sigma^2 / sum sigma^2` divided by ln r, between 0 and 1.
        frobenius_norm: `sqrt(sum sigma^2)`.
        spectral_norm: `sigma_1`.
        marchenko_pastur_edge: upper edge of the noise bulk, in the units of the eigenvalues `sigma^2`.
        spikes: number of eigenvalues beyond the edge; None where a status says why.
        alpha_weighted: `alpha log10(sigma_1^2)` with the alpha of the "ks" fit.
        randomized: the same for a copy with permuted entries, where it was asked for.
        status: "ok", or why there are no numbers.
    """

    name: str
    shape: tuple[int, int]
    fits: Mapping[Estimator, PowerLawFit]
    sigma: Tensor
    eigenvalues: Tensor
    stable_rank: float
    spectral_entropy: float
    frobenius_norm: float
    spectral_norm: float
    marchenko_pastur_edge: float
    spikes: int | None
    alpha_weighted: float
    status: MatrixStatus
    randomized: "MatrixAnalysis | None" = None

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return _MESSAGES[self.status]


def analyze_matrices(
    matrices: Mapping[str, Tensor],
    *,
    estimators: Sequence[Estimator] = ESTIMATORS,
    randomized: bool = False,
    rounding: Mapping[str, Tensor] | None = None,
) -> list[MatrixAnalysis]:
    """Measure the spectrum of every matrix: fits, ranks, norms, Marchenko-Pastur edge.

    Equal shapes are computed as one stack, on the device of the tensors and in bounded memory.

    Args:
        matrices: `[*batch, m, n]` by name; each matrix of a batch has a result of its own, named `name[i]`.
        estimators: which power-law fits to make.
        randomized: also measure a copy whose entries are permuted, which keeps their distribution and
            destroys their correlations; drawn with a fixed seed, the global random state is left alone.
        rounding: by name, `[*batch]`: the `rounding_level` of what a matrix was computed from, such as the narrower
            weights of which it is the difference. That of its own entries is known.

    Returns:
        One result per matrix, in the order given.

    Raises:
        TypeError: a tensor is complex, or of whole numbers.
        ValueError: a tensor has fewer than two dims, is sharded, sparse or meta, or an estimator is unknown.

    Example:
        >>> import torch
        >>> weight = torch.randn(128, 64, generator=torch.Generator().manual_seed(0))
        >>> [result] = analyze_matrices({"weight": weight})
        >>> result.name, result.shape, result.status, result.spikes
        ('weight', (128, 64), 'ok', 0)

    Not for convolution kernels as they are: give `weight.flatten(1)`, or `weight.movedim((0, 1), (-2, -1))` for a
    matrix per position of the kernel.
    """
    if not isinstance(matrices, Mapping):
        raise TypeError(
            f"matrices must be a dict of tensors by name; got {type(matrices).__name__}. Of a model: "
            "{name: p for name, p in model.named_parameters() if p.ndim >= 2}."
        )
    given = rounding or {}
    parts = [part for name, tensor in matrices.items() for part in _matrices_of(name, tensor, given.get(name))]
    results: dict[int, MatrixAnalysis] = {}
    for stack in _stacks_of_equal_shape([matrix for _, matrix, _ in parts]):
        names = [parts[i][0] for i in stack]
        stacked = torch.stack([parts[i][1].detach() for i in stack])
        levels = torch.stack([parts[i][2].to(stacked.device) for i in stack])
        results.update(zip(stack, _analyze_stack(names, stacked, levels, estimators, randomized), strict=True))
    return [results[i] for i in range(len(parts))]


def _matrices_of(name: str, tensor: Tensor, rounding: Tensor | None) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, matrix and rounding level, one by one."""
    check_matrix(tensor, name)
    levels = torch.zeros(tensor.shape[:-2], dtype=torch.float64) if rounding is None else rounding
    for index in product(*(range(size) for size in tensor.shape[:-2])):
        yield f"{name}[{', '.join(map(str, index))}]" if index else name, tensor[index], levels[index]


def _stacks_of_equal_shape(matrices: Sequence[Tensor]) -> Iterator[list[int]]:
    """Indices of matrices to be computed together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault((tuple(matrix.shape), matrix.dtype, matrix.device), []).append(i)
    for group in groups.values():
        size = max(1, _STACK_ELEMENTS // max(1, matrices[group[0]].numel()))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _analyze_stack(
    names: Sequence[str], stack: Tensor, rounding: Tensor, estimators: Sequence[Estimator], randomized: bool
) -> list[MatrixAnalysis]:
    m, n = stack.shape[1:]
    sigma = singular_values(stack)
    eigenvalues = resolved_squares(sigma, stack, rounding)
    edges, spikes = marchenko_pastur_edge(eigenvalues, (m, n))
    columns = [
        stable_rank(sigma),
        spectral_entropy(sigma),
        torch.linalg.vector_norm(sigma.double(), dim=1),
        edges,
        spikes,
    ]
    fits = {estimator: fit_power_laws(eigenvalues, estimator) for estimator in estimators}
    copies: Sequence[MatrixAnalysis | None] = [None] * len(names)
    if randomized:
        copies = _analyze_stack(names, _permuted_entries(stack), rounding, estimators, randomized=False)
    return [
        _result(name, (m, n), spectra, {estimator: fits[estimator][i] for estimator in estimators}, numbers, copies[i])
        for i, (name, spectra, numbers) in enumerate(
            zip(
                names,
                zip(sigma.cpu(), eigenvalues.cpu(), strict=True),
                torch.stack([column.double() for column in columns], dim=1).tolist(),
                strict=True,
            )
        )
    ]


def _result(
    name: str,
    shape: tuple[int, int],
    spectra: tuple[Tensor, Tensor],
    fits: Mapping[Estimator, PowerLawFit],
    numbers: Sequence[float],
    randomized: MatrixAnalysis | None,
) -> MatrixAnalysis:
    rank, entropy, frobenius_norm, edge, spikes = numbers
    sigma, eigenvalues = spectra
    spectral_norm = float(sigma[0]) if len(sigma) else 0.0
    status = _status(eigenvalues)
    has_spectrum, has_bulk = status in ("ok", "too_small"), status == "ok"
    alpha = fits["ks"].alpha if "ks" in fits else math.nan
    return MatrixAnalysis(
        name=name,
        shape=shape,
        fits=fits,
        sigma=sigma,
        eigenvalues=eigenvalues,
        stable_rank=rank if has_spectrum else math.nan,
        spectral_entropy=entropy if has_spectrum else math.nan,
        frobenius_norm=frobenius_norm if status != "not_finite" else math.nan,
        spectral_norm=spectral_norm if status != "not_finite" else math.nan,
        marchenko_pastur_edge=edge if has_bulk else math.nan,
        spikes=int(spikes) if has_bulk else None,
        alpha_weighted=2 * alpha * math.log10(spectral_norm) if has_bulk else math.nan,
        status=status,
        randomized=randomized,
    )


def _status(eigenvalues: Tensor) -> MatrixStatus:
    if not bool(torch.isfinite(eigenvalues).all()):
        return "not_finite"
    if not bool(eigenvalues.any()):
        return "zero"
    return "ok" if len(eigenvalues) >= MIN_TAIL_SIZE else "too_small"


def _permuted_entries(stack: Tensor) -> Tensor:
    """Each matrix with its entries in random order: `[batch, m, n]`."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(stack[0].numel(), generator=generator).to(stack.device)
    return stack.flatten(1)[:, order].view_as(stack)
