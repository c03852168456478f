"""The published products-only recipes: Muon's polar factor, and a correct form of HTMuon_NS."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from htmuon._checks import check_number, known
from htmuon.kernels import aligned, gram
from htmuon.linalg.base import (
    METHODS,
    Accuracy,
    Mapped,
    Method,
    ScalarFunction,
    compute_dtype,
    safe_divisor,
    short_side_first,
    unit_scale,
    widest,
)

SQUARINGS = 3


def spectral_norm_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """An estimate of the largest eigenvalue of a Gram matrix, and an upper bound that is never below it.

    Three squarings give `B = A^8` (scaled by the trace at every step, so nothing overflows). The bound is
    `norm_F(A^8)^(1/8) <= lambda_1 r^(1/16)`. The estimate is the Rayleigh quotient of `B^2 b`, `b` the column of `B`
    with the largest diagonal entry: 24 power iterations from a start that contains the first direction.

    Args:
        gram: `[*batch, m, m]`, symmetric positive semi-definite, of moderate scale.

    Returns:
        `(estimate, bound)`, both `[*batch, 1, 1]`; zero for a zero matrix. The estimate is below `lambda_1` by at most
        a few percent, and only where the leading eigenvalues are that close to each other.

    Example:
        >>> estimate, bound = spectral_norm_of_gram(torch.diag(torch.tensor([4.0, 1.0, 0.25])))
        >>> round(estimate.item(), 3), round(bound.item(), 3)
        (4.0, 4.0)
    """
    power, scale = gram, torch.ones_like(gram[..., :1, :1])
    for squaring in range(SQUARINGS + 1):
        trace = power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        scale = scale * safe_divisor(trace) ** (0.5**squaring)
        power = power / safe_divisor(trace)
        if squaring < SQUARINGS:
            power = power @ power
    exponent = 2**SQUARINGS
    # Now A^8 = scale^8 * power, with the trace of `power` equal to 1.
    bound = scale * torch.linalg.matrix_norm(power, keepdim=True) ** (1 / exponent)
    largest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    vector = power.gather(-1, largest.expand(*power.shape[:-1], 1))
    vector = power @ (power @ vector)
    quotient = (vector * (gram @ vector)).sum(-2, keepdim=True) / safe_divisor((vector * vector).sum(-2, keepdim=True))
    return quotient, torch.maximum(bound, quotient)


# Keller Jordan's quintic (https://kellerjordan.github.io/posts/muon/), the default of torch.optim.Muon.
QUINTIC = (3.4445, -4.7750, 2.0315)
QUINTIC_STEPS = 5

# Polar Express (arXiv 2505.16932), the quintics for singular values in [1e-3, 1]; the last one is the Newton-Schulz
# quintic to which the sequence converges. Each is divided by 1.01 so that rounding cannot push a value above 1.
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845749493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
SAFETY = 1.01
POLISHING_STEPS = 2


def coupled_square_root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`(A^(1/2), A^(-1/2))` of symmetric matrices with eigenvalues in (0, 1], by products alone.

    With `E = Z Y` and `h(E) = a I + b E + c E^2`: `Y <- Y h(E)`, `Z <- h(E) Z` from `Y = A`, `Z = I`. The eigenvalues
    of `E` follow the scalar iteration `x <- x h(x^2)` of the polar factor, so its coefficients serve here too (Higham,
    Functions of Matrices, 2008, section 6.7).
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix, identity.expand_as(matrix)
    safe = [(a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in POLAR_EXPRESS[:-1]]
    for a, b, c in [*safe, *[POLAR_EXPRESS[-1]] * POLISHING_STEPS]:
        e = z @ y
        h = a * identity + b * e + c * e @ e
        y, z = y @ h, h @ z
    return y, z


def nested_root(matrix: Tensor, roots: int) -> tuple[Tensor, Tensor]:
    """`(A^(2^-roots), A^(-1/2))`: square roots of square roots, and the inverse of the first.

    Rounding can leave eigenvalues of a Gram matrix slightly below zero, from where the iteration diverges: a shift by a
    hundred units of rounding keeps all of them above.
    """
    shift = 100 * torch.finfo(matrix.dtype).eps
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root, inverse = coupled_square_root((matrix + shift * identity) / (1 + shift))
    for _ in range(roots - 1):
        root, _ = coupled_square_root(root)
    return root, inverse


def _checked_rows(rows: object) -> tuple[tuple[float, float, float], ...]:
    """Coefficients as tuples; raises where they are none."""
    remedy = "Pass triples such as ((3.4445, -4.775, 2.0315),) * 5, or None."
    if not isinstance(rows, tuple | list) or not all(isinstance(r, tuple | list) and len(r) == 3 for r in rows):
        raise TypeError(f"coefficients must be a sequence of triples (a, b, c), one a step; got {rows!r}. {remedy}")
    if not rows:
        raise ValueError(f"coefficients must have at least one triple; got {rows!r}. {remedy}")
    for number in (number for row in rows for number in row):
        check_number("coefficients", number, least=-math.inf, remedy=remedy)
    return tuple((float(a), float(b), float(c)) for a, b, c in rows)


@dataclass(frozen=True)
class NewtonSchulz(Method):
    """The paper's HTMuon_NS made correct: for p = 0, and for p = 2^-k with k = 0, 1, 2, ...

    At p = 0 it is Muon's own recipe: five quintic steps in bfloat16, which leave singular values between 0.68 and 1.13.
    At p = 2^-k it is `(M M^T)^(p/2) (M M^T)^(-1/2) M` with k + 1 nested square roots of the short-side Gram matrix in
    float64, each run to convergence (HTMuon_NS, arXiv 2603.10067, stops after five steps of each and rounds p).

    For reproducing published results. Not for speed: `eigh` is as fast, more exact, and takes any p. The exponent is
    read on the host, which waits for the device where a power schedule runs on an accelerator.

    Args:
        eps: at p = 0 what the Frobenius norm is at least taken for, so that smaller matrices fade as they do in
            `torch.optim.Muon`; 0 maps a matrix of any scale, and in an optimizer stands for the optimizer's own `eps`.
        coefficients: at p = 0 the `(a, b, c)` of every step, as other implementations of Muon take them; None is five
            times Keller Jordan's.

    Raises:
        TypeError: `coefficients` is no sequence of triples of numbers.
        ValueError: `coefficients` is empty, or a number is not finite.
    """

    name: ClassVar[str] = "newton_schulz"
    reads_power: ClassVar[bool] = True
    # Small matrices are multiplied several times faster in stacks, as long as these fit in a cache.
    stack_elements: ClassVar[int] = 2**18
    eps: float = 0.0
    coefficients: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        if self.coefficients is not None:  # a file or a list may bring lists, which no compiled form can be found by
            object.__setattr__(self, "coefficients", _checked_rows(self.coefficients))

    def require(self, function: ScalarFunction) -> None:
        """Raise ValueError unless the exponent is 0 or 2^-k."""
        given = "a map that is not a power" if function.power is None else f"power={function.power}"
        several = isinstance(function.power, Tensor) and function.power.ndim > 0
        power = None if function.power is None or several else float(function.power)
        if power is None or (power != 0 and (power < 0 or power > 1 or not math.log2(power).is_integer())):
            raise ValueError(
                f"method 'newton_schulz' needs power 0 or 2^-k (1, 1/2, 1/4, 1/8, ...); got {given}. "
                "Use method='eigh', which computes every function."
            )

    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply the power to the relative singular values."""
        self.require(function)
        assert function.power is not None
        power = float(function.power)
        wide, tall = short_side_first(matrix)
        mapped = self._polar(wide) if power == 0 else self._root(wide, 1 - int(math.log2(power)))
        return replace(mapped, matrix=mapped.matrix.mT) if tall else mapped

    def _polar(self, wide: Tensor) -> Mapped:
        """Quintic steps in bfloat16, `X <- a X + (b A + c A^2) X` with `A = X X^T`, from `X = M / norm_F(M)`."""
        x, scale = unit_scale(wide, torch.bfloat16)
        norm = torch.linalg.matrix_norm(x, keepdim=True)
        rank = torch.where(norm > 0, wide.shape[-2], 0)
        x = x.div_(safe_divisor(torch.maximum(norm, (self.eps / scale).to(norm.dtype))))
        # Under one name, so that no more than two of them are in memory. One alone is no stack: a CPU multiplies one in
        # bfloat16 half as fast as a matrix.
        x = aligned(x.reshape(-1, *wide.shape[-2:])).squeeze(0)
        add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
        for a, b, c in self.coefficients or (QUINTIC,) * QUINTIC_STEPS:
            outer = gram(x)
            step = add_product(outer, outer, outer, beta=b, alpha=c)
            x = add_product(x, step, x, beta=a)
        dtype = compute_dtype(wide.dtype)
        mapped = x[..., : wide.shape[-2], : wide.shape[-1]].reshape(wide.shape).to(dtype)
        return Mapped.by_sigma_1(mapped, norm.to(dtype) * scale.to(dtype), rank)

    def fading(self, function: ScalarFunction, eps: float) -> tuple[Method, float]:
        """At p = 0 the published recipe fades by itself."""
        power = known(function.power)
        return (replace(self, eps=self.eps or eps), 0.0) if power == 0 else (self, eps)

    def _root(self, wide: Tensor, roots: int) -> Mapped:
        """The recipe at p = 2^(1 - roots)."""
        scaled, scale = unit_scale(wide, widest(wide.device))
        outer = gram(scaled)
        estimate, bound = spectral_norm_of_gram(outer)
        root, inverse = nested_root(outer / safe_divisor(bound), roots)
        polar = inverse @ (scaled / safe_divisor(bound).sqrt())
        mapped = root @ polar * (safe_divisor(bound) / safe_divisor(estimate)) ** (0.5**roots)
        rank = torch.linalg.matrix_norm(polar, keepdim=True).square().round()
        dtype = compute_dtype(wide.dtype)
        return Mapped.by_sigma_1(mapped.to(dtype), (estimate.sqrt() * scale).to(dtype), rank)

    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The quintic's band at p = 0; for the nested roots, the range of the Polar Express coefficients."""
        if power == 0:
            return Accuracy(0.35, min(1.0, 0.01 * min(matrix.shape[-2:]) ** 0.5))
        return Accuracy(0.02, 2e-3)


METHODS.register(NewtonSchulz.name)(NewtonSchulz())
