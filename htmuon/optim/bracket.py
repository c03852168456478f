"""The bracket: the part of a step that needs whole matrices, as one function, eager or compiled.

    precondition -> spectral map -> normalize -> adapt -> update scale

What changes from step to step, a scheduled power and the weights that a method made of it, comes in as tensors: a
bracket is compiled once and follows every schedule. Tables of weights are looked up before it is entered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor

from htmuon._typing import MatrixView, Normalization, State
from htmuon.layouts import Bracket
from htmuon.linalg import Method, ScalarFunction
from htmuon.linalg.base import widest
from htmuon.optim.slots import Adaptation, Precondition
from htmuon.routing.views import matrix_shape, matrix_view, undo_matrix_view
from htmuon.spectral import MapChoice, SpectralMap, map_of
from htmuon.spectral.apply import advance_map

Compiled = Callable[[Tensor, State, SpectralMap, ScalarFunction], tuple[Tensor, State]]
_numbers = count()


@dataclass(frozen=True)
class MatrixUpdate:
    """Everything about a bracket that stays the same from step to step.

    Args:
        precondition: before the map.
        method: how the map is computed.
        normalization: what fixes the size of the mapped matrix.
        floor: matrices whose largest singular value is not above it map to zero.
        adapt: after the map.
        scale: the update scale.
        view: how the parameter stores its matrices.
        shape: of the parameter.
    """

    precondition: Precondition
    method: Method
    normalization: Normalization
    floor: float
    adapt: Adaptation
    scale: float
    view: MatrixView
    shape: tuple[int, ...]

    def __call__(
        self, direction: Tensor, state: State, function: SpectralMap, prepared: ScalarFunction
    ) -> tuple[Tensor, State]:
        """From directions `[stack, *shape]` to updates `[stack, *shape]`, and the new state.

        Args:
            direction: of the momentum.
            state: of the method and of the adaptation.
            function: the map, bound to the shape of the matrices.
            prepared: what the method made of the map.
        """
        matrix = self.precondition(matrix_view(direction, self.view, stacked=True))
        update, state = advance_map(matrix, function, self.method, self.normalization, state, prepared, self.floor)
        update, adapted = self.adapt(update, state)
        update = update if self.scale == 1 else update.mul_(self.scale)
        return undo_matrix_view(update, self.view, self.shape), {**state, **adapted}


def bracket(
    update: MatrixUpdate,
    spectral_map: MapChoice,
    power: float | Tensor | None,
    device: torch.device,
    *,
    compiling: bool,
    scheduled: bool,
) -> Bracket:
    """The bracket of one step.

    Args:
        update: what it does.
        spectral_map: the name or the dict of the map.
        power: of this step; None where each matrix has its own.
        device: of the parameters.
        compiling: with `torch.compile`, if the method gains by it.
        scheduled: whether the power moves from step to step, so that a compiled form must not rest on its value.
    """
    method = update.method
    compiling = compiling and compilable(method, power)
    if compiling and scheduled and not method.reads_power and isinstance(power, int | float):
        power = torch.full((), power, dtype=widest(device), device=device)
    shape = matrix_shape(update.shape, update.view)

    def at(given: float | Tensor, stack: tuple[int, ...] = ()) -> tuple[SpectralMap, ScalarFunction]:
        function = map_of(spectral_map, given).at((*stack, *shape))
        return function, method.prepare(function, device)

    common = None if power is None else at(power)
    fixed = None if isinstance(power, Tensor) else power

    def run(direction: Tensor, state: State, powers: Tensor | None) -> tuple[Tensor, State]:
        if common is None:
            assert powers is not None
            function, prepared = at(powers.view(-1, *(1,) * (len(shape) - 2)), (len(powers),))
        else:
            function, prepared = common
        if not compiling:
            return update(direction, state, function, prepared)
        form = compiled(update, str(spectral_map), fixed, direction.shape, direction.dtype, device)
        return form(direction, state, function, prepared)

    return run


def compilable(method: Method, power: float | Tensor | None) -> bool:
    """Whether a compiled bracket can be made, and be better than the eager one, which takes its place where not."""
    return method.compiles and not (method.reads_power and not isinstance(power, int | float))


@lru_cache(maxsize=1024)
def compiled(
    update: MatrixUpdate,
    spectral_map: str,
    fixed: float | None,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
) -> Compiled:
    """The compiled form of an update, shared by all optimizers.

    Everything after `update` tells forms apart for which torch would have to compile again: the map, its power unless
    that comes in as a tensor, and what the stack looks like.
    """
    # Said here, because the decorator would import the compiler together with the library.
    for constant in update.method.constants():
        torch.compiler.assume_constant_result(constant)  # type: ignore[no-untyped-call]

    def run(direction: Tensor, state: State, function: SpectralMap, prepared: ScalarFunction) -> tuple[Tensor, State]:
        return update(direction, state, function, prepared)

    # torch counts how often a code object is compiled and gives up after a few times: every form has one of its own.
    run.__code__ = run.__code__.replace(co_name=f"bracket_{next(_numbers)}")
    form: Compiled = torch.compile(run, fullgraph=True, dynamic=False)
    return form
