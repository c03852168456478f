"""What the settings of a group make of its matrix parameters: how the map is computed, the bracket, and its state."""

from dataclasses import dataclass

import torch
from torch import Tensor

from htmuon._typing import AdjustLrFn, Group, MatrixView, Normalization
from htmuon.layouts import Bracket, Layout
from htmuon.linalg import Method, method_of, select_method
from htmuon.linalg.select import AUTO, EXACT, OF_STEPS
from htmuon.optim.bracket import MatrixUpdate, bracket
from htmuon.optim.hindsight import LAST_UPDATE, looks_back, numbers
from htmuon.optim.momentum_rules import MOMENTUM_RULES
from htmuon.optim.named import part_of
from htmuon.optim.schedules import schedule_from_dict
from htmuon.optim.slots import Adaptation, Precondition
from htmuon.routing.split import part_shapes, split_bracket, state_name
from htmuon.routing.views import default_view, matrix_shape
from htmuon.spectral import SpectralMap, map_of
from htmuon.spectral.normalization import settled


def update_scale(shape: tuple[int, ...], adjust_lr_fn: AdjustLrFn | None) -> float:
    """The factor on the update of matrices `[*batch, out, in]`; the first three names are those of `torch.optim.Muon`.

    - `original`, or None: `max(1, out / in)^0.5` (Keller Jordan)
    - `spectral_unclamped`: `(out / in)^0.5` (Bernstein)
    - `rms_to_rms`: the same by its name in timm
    - `none`: 1
    - `match_rms_adamw`: `0.2 max(out, in)^0.5`, which gives a matrix of Frobenius norm `min(out, in)^0.5` the root mean
      square 0.2 of an AdamW update, so that AdamW's learning rates carry over (Moonlight, arXiv 2502.16982)

    Example:
        >>> update_scale((64, 16), "original"), update_scale((16, 64), "original")
        (2.0, 1.0)
    """
    rows, columns = shape[-2:]
    if adjust_lr_fn is None or adjust_lr_fn == "original":
        return float(max(1.0, rows / columns) ** 0.5)
    if adjust_lr_fn in ("spectral_unclamped", "rms_to_rms"):
        return float((rows / columns) ** 0.5)
    if adjust_lr_fn == "none":
        return 1.0
    assert adjust_lr_fn == "match_rms_adamw"
    return float(0.2 * max(rows, columns) ** 0.5)


# The floor of momentum, of that of gradients. A gradient above its floor makes momentum of at least (1 - beta) of
# it, and no matrix lies between the floors, where weight decay alone would act.
FADED = 1e-6


@dataclass(frozen=True)
class Rules:
    """The rules of one parameter group in one step: methods, brackets and shapes of its matrices.

    Attributes:
        group: with `use_muon=True`.
        precondition: the slot before the map.
        adaptation: the slot after it.
    """

    group: Group
    precondition: Precondition
    adaptation: Adaptation

    def bracket(self, layout: Layout, parameter: Tensor) -> Bracket:
        """The part of the step that needs whole matrices, for parameters like the given one."""
        shape = layout.bracket_shape(tuple(parameter.shape))
        view = self._view(len(shape))
        if self.group["split"] is None:
            return self._bracket_of(parameter, shape, view)
        split = self.group["split"]
        parts = [self._bracket_of(parameter, of, "linear") for of in part_shapes(shape, view, split)]
        return split_bracket(parts, view, shape, split)

    def state_shapes(self, parameter: Tensor) -> dict[str, tuple[int, ...]]:
        """Name and shape of every state tensor of a parameter that has its shape or that of its matrices."""
        shape = tuple(parameter.shape)
        method, split = self._method(parameter), self.group["split"]
        buffers = part_of(MOMENTUM_RULES, self.group["momentum_rule"]).buffers
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(buffers, shape)
        if looks_back(self.group):
            shapes[LAST_UPDATE] = shape
        shapes |= dict.fromkeys(numbers(self.group), ())
        for run, matrices in enumerate(part_shapes(shape, self._view(len(shape)), split)):
            kept = {**method.state_shapes(matrices), **self.adaptation.state_shapes(matrices)}
            shapes |= {name if split is None else state_name(name, run): of for name, of in kept.items()}
        return shapes

    def _view(self, ndim: int) -> MatrixView:
        view: MatrixView = self.group["matrix_view"] or default_view(ndim)
        return view

    @property
    def floor(self) -> float:
        """The Frobenius norm below which a gradient counts as zero; 0 where the method fades by itself."""
        group = self.group
        if group["method"] in (AUTO, EXACT):
            return float(group["eps"])
        _, floor = method_of(group["method"]).fading(self._map(), group["eps"])
        return floor

    def stack_elements(self, parameter: Tensor) -> int:
        """How many elements a stack of parameters like the given one has at most."""
        given: int | None = self.group["stack_elements"]
        if given is not None:
            return given
        # An accelerator's host needs 5 to 7 ms to launch what a stack needs, in which an H200 computes some 2**25
        # elements of a LLaMA of a billion parameters. A CPU launches nothing, and has less memory.
        return self._method(parameter).stack_elements if parameter.device.type == "cpu" else 2**26

    def _method(self, parameter: Tensor) -> Method:
        """How the map is computed for a parameter."""
        # Matrices as they are computed, of which the choice looks at shape, dtype and device.
        shape = matrix_shape(tuple(parameter.shape), self._view(parameter.ndim))
        matrices = torch.empty((), dtype=parameter.dtype, device=parameter.device).expand(shape)
        ruled = self.group["power_rule"] is not None
        return select_method(matrices, self._map(), self.group["method"], OF_STEPS, any_power=ruled)

    def _map(self) -> SpectralMap:
        """The map at the power of this step; where each matrix has its own, at powers that nobody knows beforehand."""
        ruled = self.group["power_rule"] is not None
        return map_of(self.group["spectral_map"], torch.empty(1, device="meta") if ruled else self.group["power"])

    def _normalization(self) -> Normalization:
        """What the normalization of the group stands for, over all powers of its schedule."""
        group = self.group
        if group["power_rule"] is not None and group["normalization"] == "auto":
            return "rms"  # a rule compares powers at one size
        schedule = group["power_schedule"]
        powers = (group["power"],) if schedule is None else schedule_from_dict(schedule).powers
        if group["normalization"] != "auto" or any(isinstance(power, Tensor) for power in powers):
            normalization: Normalization = group["normalization"]
            return normalization
        return settled("auto", [float(map_of(group["spectral_map"], power).degree) for power in powers])

    def _bracket_of(self, parameter: Tensor, shape: tuple[int, ...], view: MatrixView) -> Bracket:
        """A bracket for stacks `[stack, *shape]` on the device of a parameter and in its dtype."""
        group = self.group
        method, floor = self._method(parameter).fading(self._map(), group["eps"])
        update = MatrixUpdate(
            precondition=self.precondition,
            method=method,
            normalization=self._normalization(),
            floor=FADED * floor,
            adapt=self.adaptation,
            scale=update_scale(matrix_shape(shape, view), group["adjust_lr_fn"]),
            view=view,
            shape=shape,
        )
        return bracket(
            update,
            group["spectral_map"],
            None if group["power_rule"] is not None else group["power"],
            parameter.device,
            compiling=group["compile"],
            scheduled=group["power_schedule"] is not None,
        )
