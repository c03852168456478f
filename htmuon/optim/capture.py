"""A whole step as a CUDA graph: one call of the host, however many matrices there are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from htmuon._checks import check_whole
from htmuon._warnings import warn
from htmuon.layouts import is_distributed
from htmuon.optim.base import SpectralOptimizer


class CapturedStep:
    """Takes the steps of an optimizer on one GPU by replaying one: call it in place of `optimizer.step()`.

    The first steps are ordinary ones; the next is captured. Replayed steps follow learning rates, which schedulers may
    write as they like, power schedules and masks of bad gradients. Where anything else has changed, a setting, a group
    or a state that was loaded, one ordinary step is taken and the next captured anew. Gradients must stay where they
    are in memory. Hooks of `optimizer.step` run in ordinary and captured steps, and not in replayed ones.

    Args:
        optimizer: any of this library, with a method that does not wait for the host (`svd` and `eigh` do). Its
            learning rates become 0-d tensors on the device.
        warm_up: how many ordinary steps are taken first, at least 1: it allocates the state; others compile brackets.

    Raises:
        ValueError: the parameters are not all on one CUDA device, or divided among ranks; `warm_up` is below 1; a
            gradient has moved since the capture. Then nothing was changed.

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

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. Not for several ranks, closures, gradient
    scalers, which skip steps on the host, or momentum that a scheduler cycles (`cycle_momentum=False` keeps it).
    """

    def __init__(self, optimizer: SpectralOptimizer, *, warm_up: int = 3) -> None:
        check_whole("warm_up", warm_up, 1)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        _require_one_gpu(parameters)
        if optimizer.process_group is not None or any(map(is_distributed, parameters)):
            raise ValueError(
                "a captured step is one of a single rank; got parameters that ranks share. Call optimizer.step()."
            )
        self.optimizer = optimizer
        self._ordinary = warm_up  # steps to be taken before the next capture
        self._replay: Callable[[], None] | None = None
        self._held: list[object] = []
        self._gradients: list[int | None] = []
        self._rates: dict[int, Tensor] = {}
        self._dropped = 0

    def __call__(self) -> None:
        """Take one step."""
        self._take_rates()
        gradients = places_of_gradients(self.optimizer)
        if self._replay is not None and held(self.optimizer) != self._held:
            self._replay, self._ordinary = None, 1
            self._dropped += 1
            if self._dropped == MANY:
                warn(
                    f"what a captured step must hold has changed {MANY} times; each time an ordinary step is taken and "
                    "another captured. Change learning rates only, or call optimizer.step()."
                )
        if self._replay is None:
            # A state that is allocated while a step is captured would be made anew by each replay.
            others = [place is None for place in gradients] != [place is None for place in self._gradients]
            if self._ordinary > 0 or others:
                self._ordinary = max(self._ordinary - 1, 0)
                self._gradients = gradients
                _aside(self.optimizer.step)
                return
            self._replay = _captured(self.optimizer.step)
            self._held, self._gradients = held(self.optimizer), gradients
        elif gradients != self._gradients:
            raise ValueError(
                "gradients must stay in the memory in which they were when the step was captured; got others. Call "
                "zero_grad(set_to_none=False) before each backward pass."
            )
        self._replay()

    def _take_rates(self) -> None:
        """Bring learning rates that were written as numbers, or as other tensors, to where the graph reads them."""
        for number, group in enumerate(self.optimizer.param_groups):
            if not group["params"]:
                continue
            if number not in self._rates:
                self._rates[number] = torch.zeros((), dtype=torch.float32, device=group["params"][0].device)
            own = self._rates[number]
            if group["lr"] is not own:
                own.copy_(group["lr"]) if isinstance(group["lr"], Tensor) else own.fill_(group["lr"])
                group["lr"] = own


# After so many changes a user hears of it.
MANY = 3


def held(optimizer: SpectralOptimizer) -> list[object]:
    """What a graph holds as it was: settings, and the addresses of parameters, state and settings that are tensors."""
    found: list[object] = []
    for group in optimizer.param_groups:
        for name, value in group.items():
            found.append((name, [p.data_ptr() for p in value] if name == "params" else _place_of(value)))
        found.extend(
            {name: _place_of(value) for name, value in optimizer.state.get(p, {}).items()} for p in group["params"]
        )
    return found


def _place_of(value: object) -> object:
    return ("tensor at", value.data_ptr()) if isinstance(value, Tensor) else value


def places_of_gradients(optimizer: SpectralOptimizer) -> list[int | None]:
    """The address of every gradient; None where there is none."""
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"])
    return [None if gradient is None else gradient.data_ptr() for gradient in gradients]


def _require_one_gpu(parameters: Sequence[Tensor]) -> None:
    devices = {p.device for p in parameters}
    if len(devices) != 1 or not parameters[0].is_cuda:
        got = ", ".join(sorted(map(str, devices))) or "no parameter"
        raise ValueError(
            f"a captured step needs parameters on one CUDA device; got {got}. Call optimizer.step() instead."
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
