"""The functions that people call: a spectral map of a matrix."""

import torch
from torch import Tensor

from htmuon._typing import Normalization, State
from htmuon.kernels import full_float32
from htmuon.linalg import Method, MethodChoice, ScalarFunction, select_method
from htmuon.spectral.base import SpectralMap
from htmuon.spectral.normalization import check_normalization, normalized
from htmuon.spectral.power import Power


def check_matrix(matrix: object) -> None:
    """Raise unless `matrix` is a dense real floating-point tensor of two or more dimensions."""
    if not isinstance(matrix, Tensor):
        raise TypeError(f"matrix must be a torch.Tensor [*batch, m, n]; got {type(matrix).__name__}.")
    if matrix.is_complex() or not matrix.is_floating_point():
        raise TypeError(f"matrix must be real floating point; got dtype {matrix.dtype}. Convert it first.")
    if matrix.layout != torch.strided:
        raise TypeError(f"matrix must be dense; got layout {matrix.layout}. Call .to_dense() first.")
    if matrix.ndim < 2:
        raise ValueError(
            f"matrix must have shape [*batch, m, n]; got shape {tuple(matrix.shape)}. Reshape it to a matrix first."
        )


def advance_map(
    matrix: Tensor,
    function: SpectralMap,
    method: Method,
    normalization: Normalization,
    state: State,
    prepared: ScalarFunction | None = None,
    floor: float = 0.0,
) -> tuple[Tensor, State]:
    """Map and normalize finite, valid input, with what the method remembers: the core of a training step.

    Args:
        matrix: `[*batch, m, n]`, finite.
        function: the spectral map.
        method: how it is computed.
        normalization: one of `auto`, `none`, `spectral`, `rms`, `lmo`.
        state: what `method.state_shapes` declares, and anything else, which is handed through.
        prepared: what the method made of the function bound to this shape, if it was asked before.
        floor: matrices whose largest singular value is not above it map to zero.

    Returns:
        `[*batch, m, n]`, float32 or float64, and the new state.
    """
    function = function.at(tuple(matrix.shape))
    ready = method.prepare(function, matrix.device) if prepared is None else prepared
    mapped, state = method.advance(matrix, ready, state)
    return normalized(mapped, matrix, function, normalization, floor), state


def spectral_map(
    matrix: Tensor,
    function: SpectralMap,
    *,
    method: MethodChoice = "auto",
    normalization: Normalization = "none",
) -> Tensor:
    """Apply a spectral map: `U g(S) V^T` for `M = U S V^T`.

    Args:
        matrix: `[*batch, m, n]`, real floating point, any scale and rank; the batch is computed as one stack.
        function: `Power(p)`, `RankPower(p)`, `Knee(p)`, `Clip()`, `Soren()` or `Function(f)`.
        method: how it is computed: a name in `htmuon.linalg.METHODS`, an object such as
            `htmuon.linalg.Polynomial(levels=8)`, a dict of the two, or `auto`.
        normalization: what fixes the size of the result: `none`, `spectral`, `rms`, `lmo`; `auto` is `rms` for p < 0
            and else `none`.

    Not to be traced: inside of a `torch.compile` of your own call `torch.compiler.disable(htmuon.spectral_map)`. The
    optimizers compile their own step (`compile=True`).

    Returns:
        `[*batch, m, n]` in the dtype of `matrix`. A zero matrix maps to zero. A matrix that holds NaN or infinity maps
        to NaN and leaves the others of its batch alone.

    Raises:
        TypeError: `matrix` is not a dense real floating-point tensor, `function` no map, or `method` none of the above.
        ValueError: it has fewer than two dimensions, or method, normalization and map don't fit together.

    Example:
        >>> import torch, htmuon
        >>> matrix = torch.diag(torch.tensor([9.0, 4.0]))
        >>> htmuon.spectral_map(matrix, htmuon.spectral.RankPower(1.0)).diagonal().tolist()
        [1.0, 0.5]
    """
    check_matrix(matrix)
    if not hasattr(function, "at") or isinstance(function, type):
        raise TypeError(
            "function must be a map such as htmuon.spectral.Knee(0.125), or htmuon.spectral.Function(f) for your "
            f"own; got {function!r} of type {type(function).__name__}."
        )
    function = function.at(tuple(matrix.shape))
    chosen = select_method(matrix, function, method)
    check_normalization(normalization, power=function.power)
    if matrix.numel() == 0:
        return matrix.clone()
    finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    clean = torch.where(finite, matrix, 0.0)
    with full_float32():
        result = normalized(chosen(clean, function), clean, function, normalization)
    return torch.where(finite, result, torch.nan).to(matrix.dtype)


def spectral_power(
    matrix: Tensor,
    power: float | Tensor,
    *,
    method: MethodChoice = "auto",
    normalization: Normalization = "none",
) -> Tensor:
    """A power of the singular values: `U S^p V^T` for `M = U S V^T`.

    `functools.partial(htmuon.spectral_power, power=0.125)` stands wherever code of your own calls
    `zeropower_via_newtonschulz5(M)`; `power=0` is the exact polar factor.

    Args:
        matrix: `[*batch, m, n]`, real floating point, any scale and rank; the batch is computed as one stack.
        power: the exponent p in [-1, 1]: 0 polar factor (Muon), 0.125 HTMuon, 1 the matrix itself. A tensor `[*batch]`
            holds one for each matrix.
        method: how it is computed: a name in `htmuon.linalg.METHODS`, an object such as
            `htmuon.linalg.Polynomial(levels=8)`, a dict of the two, or `auto`.
        normalization: what fixes the size of the result:
            `none` (`U S^p V^T`, as in the paper), `spectral` (largest singular value 1), `rms` (Frobenius norm
            `sqrt(rank)`), `lmo` (unit Schatten norm of exponent `1 + 1/p`, p in [0, 1]); `auto` is `rms` for p < 0 and
            else `none`.

    Not to be traced: inside of a `torch.compile` of your own call `torch.compiler.disable(htmuon.spectral_power)`.

    Returns:
        `[*batch, m, n]` in the dtype of `matrix`. Zero directions stay zero for every p. A matrix that holds NaN or
        infinity maps to NaN and leaves the others of its batch alone.

    Raises:
        TypeError: `matrix` is not a dense real floating-point tensor, or `power` not a number.
        ValueError: fewer than two dimensions, p outside [-1, 1], or method, normalization and p don't fit together.

    Example:
        >>> import torch, htmuon
        >>> htmuon.spectral_power(torch.diag(torch.tensor([16.0, 1.0])), 0.25).diagonal().tolist()
        [2.0, 1.0]

    Reference:
        Pang et al., HTMuon, arXiv 2603.10067. Not for hermitian or complex matrix powers: this acts on singular values.
    """
    return spectral_map(matrix, Power(power), method=method, normalization=normalization)
