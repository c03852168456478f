"""A whole step as a CUDA graph: one call of the host, however many matrices there are."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from htmuon.optim.base import SpectralOptimizer


class CapturedStep:
    """Takes the steps of an optimizer on one GPU by replaying one: call it in place of `optimizer.step()`.

    The first steps are ordinary ones; the next is captured. Replayed steps follow learning rate schedulers, power
    schedules and masks of bad gradients, all of which live on the device; a setting that was changed otherwise is
    noticed, and the step captured anew. Gradients must stay where they are in memory.

    Args:
        optimizer: any of this library, with a method that does not wait for the host (`svd` and `eigh` do). Its
            learning rates become 0-d tensors on the device, which schedulers write into.
        warm_up: how many steps are taken before the capture: one allocates the state, others compile brackets.

    Raises:
        ValueError: a parameter is not on a CUDA device, or there is none; a gradient has moved since the capture. Then
            nothing was changed.

    Example:
        >>> import htmuon
        >>> if torch.cuda.is_available():
        ...     model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)).cuda()
        ...     optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02)
        ...     step = htmuon.optim.CapturedStep(optimizer)
        ...     for _ in range(10):
        ...         optimizer.zero_grad(set_to_none=False)
        ...         model(torch.randn(8, 64, device="cuda")).square().mean().backward()
        ...         step()

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Not for several ranks, closures, or
    gradient scalers, which skip steps on the host.
    """

    def __init__(self, optimizer: SpectralOptimizer, *, warm_up: int = 3) -> None:
        _require_cuda([p for group in optimizer.param_groups for p in group["params"]])
        self.optimizer, self.warm_up = optimizer, warm_up
        self._taken = 0
        self._replay: Callable[[], None] | None = None
        self._settings: list[dict[str, Any]] = []
        self._places: list[int | None] = []
        for group in optimizer.param_groups:
            if group["params"] and not isinstance(group["lr"], Tensor):
                group["lr"] = torch.full((), group["lr"], dtype=torch.float32, device=group["params"][0].device)

    def __call__(self) -> None:
        """Take one step."""
        if self._taken < self.warm_up:
            self._taken += 1
            _aside(self.optimizer.step)
            return
        settings, places = read_by_python(self.optimizer), places_of_gradients(self.optimizer)
        if self._replay is None or settings != self._settings:
            self._replay, self._settings, self._places = _captured(self.optimizer.step), settings, places
        elif places != self._places:
            raise ValueError(
                "gradients must stay in the memory in which they were when the step was captured; got others. Call "
                "zero_grad(set_to_none=False) before each backward pass."
            )
        self._replay()


def read_by_python(optimizer: SpectralOptimizer) -> list[dict[str, Any]]:
    """The settings of every group that a graph would hold as they were."""
    return [
        {name: value for name, value in group.items() if name != "params" and not isinstance(value, Tensor)}
        for group in optimizer.param_groups
    ]


def places_of_gradients(optimizer: SpectralOptimizer) -> list[int | None]:
    """The address of every gradient; None where there is none."""
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"])
    return [None if gradient is None else gradient.data_ptr() for gradient in gradients]


def _require_cuda(parameters: Sequence[Tensor]) -> None:
    strange = [p.device for p in parameters if not p.is_cuda]
    if strange or not parameters:
        got = f"one on {strange[0]}" if strange else "none"
        raise ValueError(
            f"a captured step needs parameters on a CUDA device; got {got}. Call optimizer.step() instead."
        )


def _aside(step: Callable[[], object]) -> None:
    """Take a step on a stream of its own, as torch asks for before a capture."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)


def _captured(step: Callable[[], object]) -> Callable[[], None]:
    """Capture a step, which does not take it, and return what takes it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
