"""Streaming power iteration: a basis of right singular vectors is carried from step to step and turned a little.

Momentum changes slowly, so the right singular vectors of the last step are nearly those of this one. With V the carried
basis, a power-iteration step in two QR factorizations is

    M V = Q R,   M^T Q = V' R',   that is V' = QR(V R^T),   as M^T Q = M^T M V R^-1 = V (R^T R) R^-1

for V is square and orthogonal: only `M V` touches the long side, everything else is of the size of the short side.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon._typing import State
from htmuon.kernels import gram
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    compute_dtype,
    direction_weights,
    safe_divisor,
    unit_scale,
    widest,
)

# One step leaves two to three times the error of two in training, and more than three times at the start, where the
# basis is a guess (benchmarks/streaming_accuracy.py).
POWER_STEPS = 2
# Added to a Gram matrix of unit columns, in units of eps times its norm, which is sqrt(r) for orthogonal columns and r
# for parallel ones: rounding takes up to one such unit from its eigenvalues (r from 100 to 2048), and most at a cold
# start with a gradient of rank one. More than is needed would hide one direction behind another.
SHIFT = 4.0
# Relative singular values below this many eps are rounding: for M of low rank, M V has columns of up to 1.5 eps.
CUTOFF = 4.0
# The largest entry of V^T V - I with which a basis is believed; rounding makes one of about 1e-6.
ORTHONORMAL = 1e-3


def long_side_first(matrix: Tensor) -> tuple[Tensor, bool]:
    """`[*batch, m, n]` as a matrix with m >= n, and whether it had to be transposed for that."""
    wide = matrix.shape[-2] < matrix.shape[-1]
    return (matrix.mT if wide else matrix), wide


def column_lengths(matrix: Tensor) -> Tensor:
    """`[*batch, 1, r]` of `[*batch, n, r]`."""
    lengths: Tensor = torch.linalg.vector_norm(matrix, dim=-2, keepdim=True)
    return lengths


def identity_like(square: Tensor) -> Tensor:
    """The identity `[r, r]`, on the device and in the dtype of `square`."""
    return torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)


def started(basis: Tensor) -> Tensor:
    """The basis, or the identity where it is all zeros because nothing was stored yet: decided on the device."""
    nothing_stored = (basis == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(nothing_stored, identity_like(basis), basis)


def shifted_cholesky(unit: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """`R^T R = C + shift eps norm(C) I` for the Gram matrix C of columns of length one (or less, which counts as one).

    Returns:
        R, upper triangular, `[*batch, r, r]`, and where it failed, `[*batch, 1, 1]`; a failed R is garbage.
    """
    correlation = gram(unit.mT)
    diagonal = correlation.diagonal(dim1=-2, dim2=-1).fill_(1)
    diagonal += shift * torch.finfo(unit.dtype).eps * torch.linalg.matrix_norm(correlation).unsqueeze(-1)
    lower, info = torch.linalg.cholesky_ex(correlation)
    return lower.mT, (info != 0)[..., None, None]


def triangular_factor(columns: Tensor) -> Tensor:
    """R of `columns = Q R`, by a shifted Cholesky factorization of the Gram matrix.

    The columns are scaled to length one before: a Cholesky factor is as accurate as its Gram matrix with a unit
    diagonal is well conditioned (Demmel, LAPACK Working Note 14, 1989), and the columns of `M V` differ in length more
    than in anything else. An absolute shift would hide every direction below `sqrt(shift) sigma_1`.

    Where Cholesky fails: Householder on the CPU. On an accelerator, columns that are taken for orthogonal, with which a
    power step leaves its basis as it was.

    Args:
        columns: `[*batch, n, r]`, n >= r, finite.

    Returns:
        `[*batch, r, r]`, upper triangular.
    """
    lengths = column_lengths(columns)
    noise = CUTOFF * torch.finfo(columns.dtype).eps * lengths.amax(-1, keepdim=True)
    lengths = safe_divisor(torch.maximum(lengths, noise))
    unit = columns / lengths
    factor, failed = shifted_cholesky(unit, SHIFT)
    factor = torch.where(failed, identity_like(factor), factor)
    if host_may_look(failed) and failed.any():
        factor = torch.where(failed, torch.linalg.qr(unit, mode="r").R, factor)
    return factor * lengths


def orthonormal(matrix: Tensor, otherwise: Tensor) -> Tensor:
    """Q of `matrix = Q R`, by Cholesky QR with a shift, twice, and again without, and looked at before it is believed.

    The last pass takes back what the shifts left and, as its Gram matrix is that of the actual columns, every rounding
    error of earlier steps: errors of orthogonality do not add up (Fukaya et al., arXiv 1809.11085). With only one pass
    before it, it fails in some of a hundred gradients of rank one.

    Where the result is not orthonormal: Householder on the CPU, on an accelerator `otherwise`. So whatever is returned
    is orthonormal, without a look from the host; and a matrix that fails differs in the next step.

    Args:
        matrix: `[*batch, r, r]`, finite.
        otherwise: `[*batch, r, r]`, orthonormal.

    Returns:
        `[*batch, r, r]`, with entries of `Q^T Q - I` below 1e-3.
    """
    q = matrix
    for shift in (SHIFT, SHIFT, 0.0):
        unit = q / safe_divisor(column_lengths(q))
        factor, _ = shifted_cholesky(unit, shift)
        q = torch.linalg.solve_triangular(factor, unit, upper=True, left=False)
    error = (gram(q.mT) - identity_like(q)).abs().amax(dim=(-2, -1), keepdim=True)
    failed = ~(error <= ORTHONORMAL)  # NaN is a failure too
    q = torch.where(failed, otherwise, q)
    if host_may_look(failed) and failed.any():
        q = torch.where(failed, torch.linalg.qr(matrix).Q, q)
    return q


def longest_first(matrix: Tensor) -> Tensor:
    """The columns of `[*batch, n, r]` in descending order of their length."""
    order = column_lengths(matrix).argsort(dim=-1, descending=True)
    return matrix.gather(-1, order.expand_as(matrix))


def power_step(tall: Tensor, basis: Tensor) -> Tensor:
    """`QR(M^T QR(M V))`: directions i and j are separated better by `(sigma_i / sigma_j)^2`.

    Between the two factorizations the columns are sorted. Power iteration would find this order by itself, but slowly,
    and errs a fifth more in training without it. It is not the columns of `M V` that are sorted, which errs more at
    worst: a new large direction lengthens many of them, but is out of all columns of Q except the first.

    Args:
        tall: M, `[*batch, n, r]`, n >= r, entries of order one.
        basis: V, `[*batch, r, r]`, orthonormal.

    Returns:
        `[*batch, r, r]`, orthonormal.
    """
    turned = basis @ triangular_factor(tall @ basis).mT  # M^T Q
    return orthonormal(longest_first(turned), otherwise=basis)


def mapped_in(basis: Tensor, tall: Tensor, function: ScalarFunction) -> Mapped:
    """`U g(S / sigma_1) V^T` of M, in a basis V that diagonalizes `M^T M` but for small entries.

    With `phi(x^2) = g(x) / x` it is `M phi(M^T M) = (M V) phi(V^T M^T M V) V^T`. For `D + E`, D diagonal and E small,
    `phi(D + E) = phi(D) + F o E` to first order, F the divided differences `(phi_i - phi_j) / (d_i - d_j)` (Daleckii
    and Krein; Higham, Functions of Matrices, 2008, theorem 3.11). `phi(D)` alone, the columns of `M V` scaled to their
    weights, errs three times as much.

    The gap `d_i - d_j` is replaced by `((d_i - d_j)^2 + e_ij^2)^(1/2)`, which keeps corrections below `phi_i - phi_j`:
    where phi jumps between two equal directions the exact one is half of that, so the correction does no more harm than
    none. The gap of the eigenvalues of the 2 x 2 block, with `4 e_ij^2`, is right for jumps, but corrects a smooth phi
    too little: it errs a fifth more in training.

    The norm of the result is at most that of the weights, which it has to second order. In a basis that fits nothing,
    r^2 corrections of one sign would add up.

    Args:
        basis: V, `[*batch, r, r]`, orthonormal.
        tall: M, `[*batch, n, r]`, n >= r, entries of order one.
        function: the scalar function g.
    """
    columns = tall @ basis
    inner = gram(columns.mT)
    squares = inner.diagonal(dim1=-2, dim2=-1)
    sigma = squares.sqrt()
    weights, sigma_1, rank = direction_weights(sigma, function, CUTOFF * torch.finfo(tall.dtype).eps)
    phi = weights / safe_divisor(sigma)
    gap = squares.unsqueeze(-1) - squares.unsqueeze(-2)
    rise = (phi.unsqueeze(-1) - phi.unsqueeze(-2)) * gap.sign()
    core = torch.diag_embed(phi) + rise * inner / safe_divisor(torch.hypot(gap, inner))
    mapped = columns @ (core @ basis.mT)
    norm = torch.linalg.matrix_norm(mapped, keepdim=True)
    allowed = torch.linalg.vector_norm(weights, dim=-1)[..., None, None]
    return Mapped.by_sigma_1(mapped * (allowed / safe_divisor(norm)).clamp(max=1), sigma_1, rank)


@dataclass(frozen=True)
class Streaming(Method):
    """Power iteration on a carried right basis, after Su Jianlin (kexue.fm 11654, 11673, 11697, 11710): any function.

    `advance` takes two power-iteration steps `V <- QR(M^T QR(M V))` from the basis of the last training step and maps M
    in the basis found, to first order in what is not diagonal there. The basis, of the short side r x r and never
    narrower than float32, is the method's state. All products must be true float32 on a GPU, not TF32.

    How good the result is depends on how fast the momentum turns and how far apart its singular values are: 3 to 4 %
    relative Frobenius error at p = 1/8 in a small training run (`benchmarks/streaming_accuracy.py`), 8 % at its first
    step, and more for p < 0, where the directions that are found last weigh most.

    `__call__` has no step before to start from and takes an exact basis, by an eigendecomposition in float64: right,
    but dearer than `eigh`, and there for checks.

    Not for single matrices, nor for a momentum that is new at every step, and no faster than `eigh` on a CPU.

    Example:
        >>> state = {"right_basis": torch.zeros(2, 2)}
        >>> matrix, root = torch.diag(torch.tensor([4.0, 1.0])), torch.sqrt
        >>> mapped, state = METHODS["streaming"].advance(matrix, root, state)
        >>> mapped.matrix.diagonal()
        tensor([1.0000, 0.5000])
    """

    name: ClassVar[str] = "streaming"

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values, from an exact basis."""
        tall, _ = unit_scale(long_side_first(matrix)[0], widest(matrix.device))
        ascending = torch.linalg.eigh(gram(tall.mT)).eigenvectors
        basis = ascending.flip(-1).to(compute_dtype(matrix.dtype))
        mapped, _ = self.advance(matrix, function, {"right_basis": basis})
        return mapped

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """A basis of the short side."""
        short = min(shape[-2:])
        return {"right_basis": (*shape[:-2], short, short)}

    def advance(self, matrix: Tensor, function: ScalarFunction, state: State) -> tuple[Mapped, State]:
        """Turn the basis towards this matrix, and map the matrix in it.

        Args:
            matrix: `[*batch, m, n]`, finite.
            function: the scalar function.
            state: `right_basis`, `[*batch, r, r]`, orthonormal or all zeros; anything else is handed through.

        Returns:
            The mapped matrix, and the state with the new basis in the dtype of the old one.
        """
        tall, wide = long_side_first(matrix)
        tall, scale = unit_scale(tall, compute_dtype(matrix.dtype))
        stored = state["right_basis"]
        basis = started(stored.to(tall.dtype))
        for _ in range(POWER_STEPS):
            basis = power_step(tall, basis)
        found = mapped_in(basis, tall, function)
        new_state = {**state, "right_basis": basis.to(stored.dtype)}
        mapped = found.matrix.mT if wide else found.matrix
        return Mapped.by_sigma_1(mapped, found.sigma_1 * scale, found.rank), new_state

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error of `__call__`: a column of `M V` errs by `eps sigma_1`, so a direction at x by `eps / x`."""
        tolerance = 1e-2
        eps = torch.finfo(compute_dtype(matrix.dtype)).eps * min(matrix.shape[-2:]) ** 0.5
        return Accuracy(tolerance, 10 * eps / tolerance)


METHODS.register(Streaming.name)(Streaming())
