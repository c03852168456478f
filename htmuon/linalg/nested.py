"""The nested form: a polynomial of a stack of matrices from products of its Gram matrices, and what it starts from.

With `A_k = X_k X_k^T`, `X_{k+1} = q_k(A_k) X_k` for fixed quadratics q_k, and `X_0 = M / bound`:

    Y = R_0 X_0,   R_k = c_k + u_k A_k + q_k (R_{k+1} + v_k A_k),   R_L = c_L + u_L A_L + v_L A_L^2
"""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from htmuon.kernels import aligned, gram, symmetric_product
from htmuon.linalg.base import compute_dtype, safe_divisor
from htmuon.linalg.levels import Levels
from htmuon.linalg.plan import Plan
from htmuon.linalg.strips import multiplied, strips, total

POWER_STEPS = 2
CHEBYSHEV_STEPS = 4
# The reciprocal of the plastic number: irrational, and far from fractions of small numbers.
CHIRP = 0.7548776662466927


class Weights(NamedTuple):
    """The weights of the nested form, `L + 1` each, as 0-d tensors or `[batch, 1, 1]`."""

    c: tuple[Tensor, ...]
    u: tuple[Tensor, ...]
    v: tuple[Tensor, ...]

    @classmethod
    def of(cls, flat: Tensor, dtype: torch.dtype) -> "Weights":
        """The weights in `[*batch, 3 L + 3]`, in the order of `Levels.features`."""
        columns = flat.to(dtype).unbind(-1) if flat.ndim == 1 else flat.to(dtype)[..., None, None].unbind(-3)
        count = len(columns) // 3
        return cls(columns[:count], columns[count : 2 * count], columns[2 * count :])


class Start(NamedTuple):
    """A stack of matrices at the scale on which the levels work.

    `X_0 = matrix / bound`, with `bound` never below the largest singular value: `norm_F(A^2)^(1/4)`, which costs a
    product that the first level needs anyway, and is close to it unless many singular values are.

    Attributes:
        matrix: `[batch, m, n]` in the dtype of the products, `aligned`.
        gram: `A_0`, of X_0.
        square: `A_0^2`.
        bound: `[batch, 1, 1]`.
        sigma_1: `[batch, 1, 1]`, the largest singular value of `matrix`, to two percent.
        norm: the Frobenius norm of `matrix`.
    """

    matrix: Tensor
    gram: Tensor
    square: Tensor
    bound: Tensor
    sigma_1: Tensor
    norm: float


def start(scaled: Tensor, dtype: torch.dtype) -> tuple[Start, Tensor]:
    """Normalize a stack with entries of moderate size, in its memory; the second result is what it was divided by."""
    # With this norm the entries of A and of A^2 are in the range of float16 for every spectrum, a flat one included.
    target = scaled.shape[-2] ** 0.25
    scale = safe_divisor(torch.linalg.matrix_norm(scaled, keepdim=True)) / target
    matrix = aligned((scaled / scale if scaled.requires_grad else scaled.div_(scale)).to(dtype))
    outer = gram(matrix)
    square = symmetric_product(outer, outer)
    wide = compute_dtype(dtype)
    # Rounding of A can push its eigenvalues up, by a few units in the last place of their largest.
    slack = 1 + 4 * torch.finfo(dtype).eps
    bound = safe_divisor(torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True, dtype=wide)).sqrt() * slack
    initial = Start(
        matrix=matrix,
        gram=(outer / bound).to(dtype),
        square=(square / bound**2).to(dtype),
        bound=bound.sqrt(),
        sigma_1=top_eigenvalue(outer, square, wide).sqrt(),
        norm=target,
    )
    return initial, scale


def top_eigenvalue(outer: Tensor, square: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest eigenvalue of `A = outer` from `square = A^2`: `[batch, 1, 1]`, to four percent.

    Power iteration, and then a Chebyshev polynomial that is small up to what that found and grows above. From two
    starts: a unit vector where A^2 has its largest diagonal entry, near a direction that lives in few coordinates; and
    a chirp, which is as far from every constant, alternating or local direction as from any other.
    """
    place = torch.arange(square.shape[-1], dtype=torch.float32, device=square.device)
    chirp = torch.cos(2 * torch.pi * (place * (place * CHIRP).frac()).frac())
    local = place == square.diagonal(dim1=-2, dim2=-1).argmax(-1, keepdim=True)
    vectors = torch.stack([local.to(dtype), chirp.to(dtype).expand_as(local)], dim=-1)

    def quotient(product: Tensor) -> Tensor:
        """The larger Rayleigh quotient of the two vectors."""
        shares = (vectors * product).sum(-2, keepdim=True) / safe_divisor(vectors.square().sum(-2, keepdim=True))
        return shares.amax(-1, keepdim=True)

    for _ in range(POWER_STEPS):
        vectors = times(square, vectors)
        vectors = vectors / safe_divisor(vectors.norm(dim=-2, keepdim=True))
    product = times(square, vectors)
    edge = safe_divisor(quotient(product))
    before, vectors = vectors, (2 / edge) * product - vectors
    for _ in range(CHEBYSHEV_STEPS - 1):
        following = (4 / edge) * times(square, vectors) - 2 * vectors - before
        size = safe_divisor(following.norm(dim=-2, keepdim=True))
        before, vectors = vectors / size, following / size
    return quotient(times(outer, vectors))


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """A product in the dtype of the matrix, for vectors of a wider one."""
    return (matrix @ vectors.to(matrix.dtype)).to(vectors.dtype)


def add_to_diagonal(matrix: Tensor, value: float | Tensor) -> Tensor:
    """`matrix + value I`, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(value if isinstance(value, float) else value.squeeze(-1))
    return matrix


def nested(initial: Start, levels: Levels, weights: Weights, plan: Plan) -> tuple[Tensor, Tensor]:
    """The nested form: levels upward, then weights downward.

    Returns:
        Y as `[batch, m, n]`, and the traces of all `A_k` and of `A_L^2` as `[batch, L + 2]`.
    """
    wide = compute_dtype(initial.matrix.dtype)
    lift = 1 / initial.bound
    outers, steps, matrices = [initial.gram], [], {0: initial.matrix}
    last = max(plan.restarts, default=0)
    for k, (a0, a1, a2) in enumerate(levels.coefficients):
        outer = outers[-1]
        if k == 0:
            square = (outer * a1).add_(initial.square, alpha=a2)
        else:
            square = symmetric_product(outer, outer, outer, alpha=a2, beta=a1)
        steps.append(add_to_diagonal(square, a0))
        if k + 1 in plan.restarts:
            first = max(matrices)
            product = reduce(symmetric_product, steps[first:])
            if first == 0:
                product = product * lift.to(product.dtype)
            if plan.folded and k + 1 == last:  # nothing but its Gram matrix is needed
                outers.append(total(gram(product @ piece) for piece in strips(matrices[first])))
            else:
                matrices[k + 1] = product @ matrices[first]
                outers.append(gram(matrices[k + 1]))
        else:
            outers.append(symmetric_product(symmetric_product(steps[k], outer), steps[k]))

    inner = symmetric_product(outers[-1], outers[-1]).mul_(weights.v[-1])
    inner = add_to_diagonal(inner.addcmul_(outers[-1], weights.u[-1]), weights.c[-1])
    parts = []
    for k in reversed(range(plan.levels)):
        if k + 1 in plan.restarts and not plan.folded:
            parts.append(inner @ matrices[k + 1])
            inner = outers[k] * weights.v[k]
        else:
            inner = inner.addcmul_(outers[k], weights.v[k])
        inner = symmetric_product(steps[k], inner).addcmul_(outers[k], weights.u[k])
        inner = add_to_diagonal(inner, weights.c[k])
    # In the dtype of lift, the wider one. Of X_0 nothing is needed any more.
    result = multiplied(inner, matrices[0]).to(wide).mul_(lift)
    for part in parts:
        result += part
    traces = [outer.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=wide) for outer in outers]
    traces.append(torch.linalg.vector_norm(outers[-1], dim=(-2, -1), dtype=wide).square())
    return result, torch.stack(traces, dim=-1)
