"""Which matrices have a gradient that says something, and whether all gradients are finite: one look at each gradient.

A matrix whose gradient is exactly zero rests in that step, like a parameter without a gradient. Every expert of a stack
and every part of a fused weight is a matrix of its own, so a parameter has *flags* `[*batch]`, or `[*batch, parts]`
where it is split. All of it is decided on the device.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple, cast

import torch
from torch import Tensor

from htmuon._typing import Group
from htmuon.layouts import is_distributed, part_like, slice_like
from htmuon.linalg.base import peak
from htmuon.optim.buckets import has_gradient
from htmuon.routing.split import Interleaved, part_of_row, parts_of_state, rows_of_parts
from htmuon.routing.views import batch_dims, default_view, matrix_shape, row_dim


class Flags(NamedTuple):
    """How the flags of a matrix parameter lie in it.

    Attributes:
        parameter: the parameter.
        batch: how many of its first dims count matrices.
        rows: its dim that holds the output rows.
        parts: which of those rows each of its parts has; None where it is not split.
    """

    parameter: Tensor
    batch: int
    rows: int
    parts: Interleaved | None

    @classmethod
    def of(cls, group: Group, parameter: Tensor) -> "Flags":
        """The flags of a parameter of a group of matrices."""
        view = group["matrix_view"] or default_view(parameter.ndim)
        rows = matrix_shape(tuple(parameter.shape), view)[-2]
        parts = None if group["split"] is None else rows_of_parts(rows, group["split"])
        return cls(parameter, batch_dims(parameter.ndim, view), row_dim(parameter.ndim, view), parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """`[*batch]` or `[*batch, parts]`, of the whole parameter."""
        return (*self.parameter.shape[: self.batch], *((len(self.parts.sizes),) if self.parts else ()))

    @property
    def largest_norm(self) -> float:
        """The Frobenius norm of a matrix whose entries are all as large as its largest one, 1."""
        return float(prod(self.parameter.shape[self.batch :]) ** 0.5)

    def none(self) -> Tensor:
        """Flags of a parameter of which nothing was seen."""
        return torch.zeros(self.shape, dtype=torch.bool, device=self.parameter.device)

    def seen(self, gradient: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """The largest magnitudes in what this rank holds of a gradient, and flags `[*batch(, parts)]` of its slice.

        A flag is true where the Frobenius norm may be above the floor: `largest sqrt(m n) > floor`.
        """
        kept = range(self.batch) if not self.parts else (*range(self.batch), self.rows)
        rest = tuple(dim for dim in range(gradient.ndim) if dim not in kept)
        peaks = peak(gradient, rest)
        flags = peaks > floor / self.largest_norm
        if self.parts:
            counts = torch.zeros(*peaks.shape[:-1], len(self.parts.sizes), dtype=torch.int32, device=peaks.device)
            flags = counts.index_add_(-1, self._part_of_row(self.parts), flags.to(torch.int32)) > 0
        return peaks, flags

    def whole(self, seen: Tensor) -> Tensor:
        """Flags of the whole parameter from those of this rank's slice: false where it is not."""
        if not is_distributed(self.parameter):
            return seen
        flags = self.none()
        slice_like(flags, self.parameter, last=self.batch).copy_(seen)
        return flags

    def over_parameter(self, flags: Tensor) -> Tensor:
        """Flags `[stack, *flags]` of whole parameters, so that they broadcast against `[stack, *slice]`."""
        flags = slice_like(flags, self.parameter, first=1, last=self.batch)
        if not self.parts:
            return flags.reshape(*flags.shape, *(1,) * (self.parameter.ndim - self.batch))
        rows = flags.index_select(-1, self._part_of_row(self.parts))
        other = (1,) * (self.parameter.ndim - self.batch - 1)
        return rows.reshape(*rows.shape, *other).movedim(self.batch + 1, self.rows + 1)

    def over_state(self, flags: Tensor, name: str) -> Tensor:
        """Flags `[stack, *flags]` so that they broadcast against `[stack, *slice of a state]`, by the state's name."""
        flags = flags[..., parts_of_state(name, self.parts)] if self.parts else flags
        flags = flags[..., None, None]
        return slice_like(flags, self.parameter, batch_dims=self.batch, first=1)

    def _part_of_row(self, parts: Interleaved) -> Tensor:
        """To which part each row belongs that this rank holds."""
        numbers = _numbers(parts, self.parameter.device)
        shape = [1] * self.parameter.ndim
        shape[self.rows] = len(numbers)
        return slice_like(numbers.view(shape), self.parameter).reshape(-1)


@lru_cache(maxsize=256)
def _numbers(parts: Interleaved, device: torch.device) -> Tensor:
    """The number of the part that each row belongs to, `[rows]`; kept, for a copy to an accelerator waits for it."""
    return torch.tensor(part_of_row(parts)).to(device)


class Signals(NamedTuple):
    """What one look at the gradients shows.

    Attributes:
        finite: 0-d bool, for all that this rank holds of all gradients.
        seen: flags of each matrix parameter that has a gradient, for the whole parameter as far as this rank knows.
    """

    finite: Tensor
    seen: dict[Tensor, Tensor]


def look(groups: Iterable[tuple[Group, float]]) -> Signals:
    """Look at every gradient once.

    Args:
        groups: with the floor below which a gradient counts as zero.
    """
    peaks: list[Tensor] = []
    seen: dict[Tensor, Tensor] = {}
    for group, floor in groups:
        plain: list[tuple[Tensor, Tensor]] = []
        for parameter in filter(has_gradient, group["params"]):
            gradient = part_like(cast(Tensor, parameter.grad), parameter)
            if gradient.numel() == 0:  # other ranks hold all of it
                continue
            if not group["use_muon"] or is_one_matrix(group, parameter):
                plain.append((parameter, gradient))
                continue
            flags = Flags.of(group, parameter)
            found, own = flags.seen(gradient, floor)
            peaks.append(found.flatten())
            seen[parameter] = flags.whole(own)
        for norms, parameters in _largest(plain, floor):
            peaks.append(torch.stack(norms))
            if group["use_muon"]:
                sizes = _multiplied(norms, [p.numel() ** 0.5 for p in parameters])
                seen.update(zip(parameters, (sizes > floor).unbind(), strict=True))
    if not peaks:
        return Signals(torch.ones((), dtype=torch.bool), seen)
    return Signals(torch.cat([p.to(peaks[0].device) for p in peaks]).isfinite().all(), seen)


def is_one_matrix(group: Group, parameter: Tensor) -> bool:
    """Whether a matrix parameter is neither a stack nor split."""
    return group["split"] is None and batch_dims(parameter.ndim, group["matrix_view"]) == 0


def whole_flags(groups: Iterable[Group], seen: dict[Tensor, Tensor]) -> tuple[list[Flags], list[Tensor]]:
    """The flags of every matrix parameter, in order; all false where this rank has seen nothing."""
    flags = [Flags.of(g, p) for g in groups if g["use_muon"] for p in g["params"] if p.numel() > 0]
    return flags, [seen[f.parameter] if f.parameter in seen else f.none() for f in flags]


# Norms for which sums of squares are far from the ends of what float32 holds.
MODERATE = (1e-3, 1e15)


def _largest(plain: Sequence[tuple[Tensor, Tensor]], floor: float) -> Iterable[tuple[tuple[Tensor, ...], list[Tensor]]]:
    """The largest magnitude of every gradient, 0-d, NaN or infinite where any entry is; with the parameters."""
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for parameter, gradient in plain:
        alike[gradient.device, gradient.dtype].append((parameter, gradient))
    for (device, _), pairs in alike.items():
        gradients = [gradient for _, gradient in pairs]
        sizes = _sizes(gradients, floor) if device.type == "cpu" else torch._foreach_norm(gradients, torch.inf)
        yield sizes, [parameter for parameter, _ in pairs]


def _sizes(gradients: list[Tensor], floor: float) -> tuple[Tensor, ...]:
    """The largest magnitudes, or what says the same of being finite and above the floor: moderate Frobenius norms.

    A norm takes one pass on a CPU, where the host may look whether it is moderate. No largest magnitude times the root
    of the number of entries is below the norm, so that both are above the floor.
    """
    norms, (low, high) = torch._foreach_norm(gradients), MODERATE
    moderate = [max(low, floor) < norm < high for norm in torch.stack(norms).tolist()]
    return tuple(n if usual else peak(g) for n, g, usual in zip(norms, gradients, moderate, strict=True))


def _multiplied(norms: tuple[Tensor, ...], factors: list[float]) -> Tensor:
    """`[n]`, each of n 0-d tensors times its factor; no list goes to an accelerator, for which the host would wait."""
    if norms[0].device.type == "cpu":
        return torch.stack(norms) * torch.tensor(factors, dtype=torch.float32, device="cpu")
    return torch.stack(torch._foreach_mul(norms, factors))
