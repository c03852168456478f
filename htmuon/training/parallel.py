"""The processes of a run, one or several: what the loop asks of them, and a process that trains by itself."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from htmuon.training.resumable import mix_seed
from htmuon.training.task import NO_TARGET, Batch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
# The state_dicts of a model and its optimizer.
States = tuple[dict[str, Tensor], dict[str, Any]]


class Parallel:
    """One process that trains by itself; the base of several that train one model together.

    Attributes:
        rank: the number of this process; process 0, the main process, writes files and talks.
        size: how many there are.
        whole: whether every process holds whole parameters.
    """

    rank: int = 0
    size: int = 1
    whole: bool = True

    @property
    def process_group(self) -> "ProcessGroup | None":
        """What an optimizer needs to divide the work on whole parameters; None where there is nothing to divide."""
        return None

    def wrap(self, model: torch.nn.Module, precision: str) -> torch.nn.Module:
        """The model to train, its parameters laid out as they will be; to be called before there is an optimizer."""
        return model

    def unwrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model with its own names, of what `wrap` returned."""
        return model

    def no_sync(self, model: torch.nn.Module) -> AbstractContextManager[object]:
        """A context in which backward passes add up gradients without telling the others: all passes but the last."""
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        return value

    def agreed(self, value: T) -> T:
        """What process 0 has; whatever the others have."""
        return value

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def state(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> States:
        """Whole state_dicts, as one process would have them: of every process, and complete on process 0."""
        return model.state_dict(), optimizer.state_dict()

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        weights: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """The inverse of `state`, for any number of processes."""
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)


@contextmanager
def main_process_first(parallel: Parallel) -> Iterator[None]:
    """A context in which the main process is first, and the others follow when it is through."""
    if parallel.rank:
        parallel.barrier()
    yield
    if not parallel.rank:
        parallel.barrier()


def forward_seed(seed: int, parallel: Parallel) -> int:
    """The seed for what a forward pass draws on this process, such as dropout masks: each has rows of its own.

    Args:
        seed: that of the pass where one process has all rows; process 0 takes it as it is.
        parallel: the processes.
    """
    return mix_seed(seed, parallel.rank) if parallel.rank else seed


def share(batch: Batch, parallel: Parallel, together: Sequence[Batch] | None = None) -> tuple[Batch, float | Tensor]:
    """This process' rows of a batch, and the weight of the mean over them in the mean over all.

    The mean over the processes, and over the batches of `together`, of weight times loss is then the loss of all these
    batches as one, also where rows have unequal numbers of targets.

    Args:
        batch: inputs and targets, as one process would train on them.
        parallel: the processes.
        together: the batches of which the loss is a mean; None is this one alone.
    """
    batches = [batch] if together is None else together
    if parallel.size == 1 and len(batches) == 1:
        return batch, 1.0
    inputs, targets = batch
    rows, rest = divmod(len(inputs), parallel.size)
    assert rest == 0, "a batch that was not checked before the run"
    mine = slice(parallel.rank * rows, (parallel.rank + 1) * rows)
    whole = torch.stack([_count(others) for _, others in batches]).sum()
    weight = _count(targets[mine]) * (parallel.size * len(batches)) / whole
    return (inputs[mine], targets[mine]), weight


def _count(targets: Tensor) -> Tensor:
    """Of how many terms the loss is a mean; targets that are floating-point are distributions over classes."""
    return (targets != NO_TARGET).sum() if not targets.is_floating_point() else torch.tensor(len(targets))
