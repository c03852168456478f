"""How a function of the singular values is computed.

Three ideas. A *scalar function* `g` says what weight a direction gets, as a function of its relative singular value
`sigma / sigma_1` in (0, 1]. A *method* computes `U g(S / sigma_1) V^T` from `M = U S V^T`: by a decomposition (`svd`,
`eigh`) or by matrix products alone (`polynomial`, `newton_schulz`). What it returns is a `Mapped` matrix,
together with `sigma_1` and the rank, from which the size of the result can be fixed in any way afterwards.

Everything is relative to `sigma_1`, so no method ever sees the scale of its input, and zero directions map to zero for
every `g` (the convention of the pseudo-inverse, which makes negative powers finite).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from htmuon._checks import host_may_look
from htmuon._registry import Registry
from htmuon._typing import State


@dataclass(frozen=True)
class Axis:
    """The grid of one parameter.

    Attributes:
        low: its smallest value.
        high: its largest value.
        count: how many points, evenly spaced, with both ends.
    """

    low: float
    high: float
    count: int

    def points(self) -> Tensor:
        """All points, float64."""
        return torch.linspace(self.low, self.high, self.count, dtype=torch.float64)


@dataclass(frozen=True)
class Family:
    """Functions of a relative singular value that differ in parameters.

    Attributes:
        function: `f(x, *theta)`, elementwise on float64 tensors that broadcast against each other, never zero.
        axes: the range and grid of each parameter; none for a single function.
    """

    function: Callable[..., Tensor]
    axes: tuple[Axis, ...] = ()


class ScalarFunction(Protocol):
    """A function of the relative singular values.

    `power` is the exponent where the function is `x -> x^power`, and None where it is any other function; methods that
    are made of products alone can compute only what they have a recipe for, and ask for it.
    """

    @property
    def power(self) -> float | Tensor | None:
        """The exponent of `x -> x^power`, or None."""

    @property
    def family(self) -> Family | None:
        """The family of which this is a member; None where a weight depends on more than its own singular value."""

    def parameters(self, ratio: Tensor, stable_rank: Tensor) -> tuple[tuple[float | Tensor, ...], float | Tensor]:
        """Which member of the family it is, for values relative to a bound of `sigma_1`.

        Args:
            ratio: `[batch]`, the bound divided by `sigma_1`, at least 1.
            stable_rank: `[batch]`, `norm_F(M)^2 / sigma_1^2`.

        Returns:
            Parameters theta and a factor, numbers or `[batch]`, with `g(ratio x) = factor family(x, *theta)`.
        """

    def __call__(self, relative: Tensor) -> Tensor:
        """Weights `[*batch, r]` of directions with relative singular values `[*batch, r]` in (0, 1], in any order."""


@dataclass(frozen=True, eq=False)
class Mapped:
    """`U g(S / reference) V^T`, and what is needed to fix its size.

    Attributes:
        matrix: `[*batch, m, n]`, float32 or float64; zero where the input was zero.
        reference: `[*batch, 1, 1]`, `sigma_1`; for a power a method may take an upper bound in its place, by which the
            result differs in a factor alone.
        find_sigma_1: see `sigma_1`; called where it is needed.
        find_rank: see `rank`.
    """

    matrix: Tensor
    reference: Tensor
    find_sigma_1: Callable[[], Tensor]
    find_rank: Callable[[], Tensor]

    @classmethod
    def by_sigma_1(cls, matrix: Tensor, sigma_1: Tensor, rank: Tensor) -> "Mapped":
        """Relative to the largest singular value, by a method that knows it and the rank anyway."""
        return cls(matrix, sigma_1, lambda: sigma_1, lambda: rank)

    @property
    def sigma_1(self) -> Tensor:
        """The largest singular value of the input, `[*batch, 1, 1]`."""
        return self.find_sigma_1()

    @property
    def rank(self) -> Tensor:
        """How many directions the method kept, `[*batch, 1, 1]`, to a few percent where nothing was decomposed."""
        return self.find_rank()


class Accuracy(NamedTuple):
    """The error that a method promises, and the singular values for which it does.

    Attributes:
        tolerance: largest relative error of the weight of a direction, for the method's own `sigma_1` and beside the
            rounding of the result (which is relative to the largest weight).
        smallest: the smallest `sigma / sigma_1` for which that holds. Below it the result is finite and, for p > 0, no
            direction weighs more than one at this value.
    """

    tolerance: float
    smallest: float


class Method(ABC):
    """One way of computing `U g(S / sigma_1) V^T` on finite real matrices `[*batch, m, n]`.

    Most methods forget one matrix before they see the next. A method that carries something from step to step declares
    it in `state_shapes` and implements `advance`. Settings of a method are the fields of a frozen dataclass.
    """

    name: ClassVar[str]
    # How many elements a stack has at most on a CPU, unless the user says: what is computed matrix by matrix anyway, or
    # keeps many matrices of the short side, gains nothing by more, and a step takes the memory of a few stacks.
    stack_elements: ClassVar[int] = 2**19
    # Whether a compiler has something to gain: where calls into LAPACK or cuSOLVER take all the time it has not.
    compiles: ClassVar[bool] = True
    # Whether the host computes with the exponent, so that a compiled form knows only the one it was compiled for.
    reads_power: ClassVar[bool] = False

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def __call__(self, matrix: Tensor, function: ScalarFunction) -> Mapped:
        """Apply `function` to the relative singular values of every matrix of a stack `[*batch, m, n]`."""

    def state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Name and shape of each state tensor for matrices `[*batch, m, n]`; they start as zeros."""
        return {}

    def advance(self, matrix: Tensor, function: ScalarFunction, state: State) -> tuple[Mapped, State]:
        """`__call__` with what the method remembers of the matrices before: the mapped matrix and the new state."""
        return self(matrix, function), state

    @abstractmethod
    def accuracy(self, matrix: Tensor, power: float) -> Accuracy:
        """The error that this method promises for matrices like `matrix` (its shape and dtype) at exponent `power`."""

    def require(self, function: ScalarFunction) -> None:  # noqa: B027 - most methods compute every function
        """Raise ValueError if the method has no recipe for the function."""

    def can(self, function: ScalarFunction) -> bool:
        """Whether the method has a recipe for the function."""
        try:
            self.require(function)
        except ValueError:
            return False
        return True

    def prepare(self, function: ScalarFunction, device: torch.device) -> ScalarFunction:
        """What can be computed once for a function, before it is applied; the result takes its place."""
        return function

    def constants(self) -> tuple[Callable[..., object], ...]:
        """Functions that depend on shapes alone: a compiler calls them once, as it cannot trace what is in them."""
        return ()

    def fading(self, function: ScalarFunction, eps: float) -> tuple["Method", float]:
        """The method for matrices that fade below a Frobenius norm of `eps`, and the floor that it leaves to others.

        Most methods see no scale: below a floor of `eps` their caller counts a matrix as zero.
        """
        return self, eps


METHODS: Registry[Method] = Registry("method")


def widest(device: torch.device) -> torch.dtype:
    """float64 where the device has it (Apple's MPS has not), float32 elsewhere."""
    return torch.float32 if device.type == "mps" else torch.float64


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of results: float64 stays float64, everything narrower is worked on in float32."""
    return torch.promote_types(dtype, torch.float32)


def short_side_first(matrix: Tensor) -> tuple[Tensor, bool]:
    """`[*batch, m, n]` as a matrix with m <= n, and whether it had to be transposed for that."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    return (matrix.mT if tall else matrix), tall


def safe_divisor(value: Tensor) -> Tensor:
    """`value`, with 1 where it is zero: a divisor that leaves zero matrices zero."""
    return torch.where(value > 0, value, torch.ones_like(value))


def peak(tensor: Tensor, dims: tuple[int, ...] = (), *, keepdim: bool = False) -> Tensor:
    """`max |x|` over some dims, or over all: NaN where any entry is NaN.

    torch's infinity norm says the same, but takes 10 to 30 times as long on a CPU, as it was measured with torch 2.14
    (0.70 ms for 512 x 512 in float32): longer than a product of that size in bfloat16.

    Args:
        tensor: not empty, real floating point.
        dims: over which to look; none are all.
        keepdim: whether they stay, with length 1.

    Example:
        >>> peak(torch.tensor([[1.0, -3.0], [2.0, 0.5]])).item(), peak(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), (0,))
        (3.0, tensor([2., 3.]))
    """
    if tensor.device.type == "cpu":
        return torch.maximum(tensor.amax(dims, keepdim=keepdim), tensor.amin(dims, keepdim=keepdim).neg())
    largest: Tensor = torch.linalg.vector_norm(tensor, torch.inf, dims or None, keepdim=keepdim)
    return largest


# Norms whose eighth power float32 holds with room to spare: that of the fourth power of singular values, squared.
MODERATE = (1e-3, 1e3)


def unit_scale(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`(matrix / scale, scale)` in `dtype`, so that products of the first stay in range.

    The scale is a power of two, so that dividing by it rounds nothing, and the largest entry comes to be in [1, 2). One
    matrix in bfloat16 stays as it is if the host may look and its norm is moderate.
    """
    wide = compute_dtype(matrix.dtype)
    if dtype == torch.bfloat16 and host_may_look(matrix) and matrix.numel() == matrix.shape[-2] * matrix.shape[-1]:
        narrow = matrix.to(dtype, copy=True)
        low, high = MODERATE
        if low < torch.linalg.vector_norm(narrow).item() < high:
            return narrow, torch.ones((*matrix.shape[:-2], 1, 1), dtype=dtype, device=matrix.device)
    largest = safe_divisor(peak(matrix, (-2, -1), keepdim=True).to(wide))
    # Not below the smallest normal number, which a division by less would leave.
    exponent = (torch.frexp(largest).exponent - 1).clamp(min=math.frexp(torch.finfo(wide).tiny)[1] - 1)
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    if dtype == torch.bfloat16 and wide == torch.float32:
        # The range of float32 is that of bfloat16: rounded first, there is no float32 copy on the way.
        return matrix.to(dtype, copy=True).div_(scale.to(dtype)), scale
    return (matrix.to(wide) / scale).to(dtype), scale.to(dtype)


def direction_weights(sigma: Tensor, function: ScalarFunction, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """What each direction weighs, given all singular values.

    Args:
        sigma: `[*batch, r]`, non-negative, in any order.
        function: the scalar function.
        cutoff: relative singular values at or below this are rounding, and count as zero.

    Returns:
        `g(sigma / sigma_1)` as `[*batch, r]`, `sigma_1` and the rank as `[*batch, 1, 1]`.
    """
    sigma_1 = sigma.amax(dim=-1, keepdim=True)
    relative = sigma / safe_divisor(sigma_1)
    kept = relative > cutoff
    # The clamp keeps x^p finite where the result is thrown away.
    weights = torch.where(kept, function(relative.clamp(min=cutoff)), 0.0)
    return weights, sigma_1.unsqueeze(-1), kept.sum(dim=-1, keepdim=True).unsqueeze(-1)
