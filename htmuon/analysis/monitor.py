"""Spectra while training: what the steps of any optimizer do to the hidden matrices of a model.

A monitor looks and never touches. It draws no random number, keeps autograd out, writes to no tensor of the run, and
copies the weights (for the update of a step) before those steps alone that it records.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch
from torch import Tensor

from htmuon.analysis.followed import FollowedMatrices, StepCount, inner_model, inner_optimizer
from htmuon.analysis.hidden import LastUpdate, average_of, found_by_rules, hidden_matrices, momentum_of
from htmuon.analysis.record_log import Record, RecordLog, read_records
from htmuon.analysis.signal import signal_by_sigma
from htmuon.analysis.spectral_records import RecordKind, spectral_records
from htmuon.analysis.tensorboard import ScalarWriter, summary_writer, write_scalars


class SpectralMonitor:
    """Records spectra of weights, momentum and updates while a model trains; its numbers stay the same to the bit.

    Made once before the loop, it needs no line in it: it listens to the steps of the optimizer. A record is one line
    of JSON for each kind ("weights", "momentum", "updates") and hidden matrix: `step`, `kind`, `name`, `shape`,
    `status`, `alpha_ks` and `alpha_hill` (with `status_ks`, `status_hill` where there is no fit, and `ks_distance` of
    the first), `stable_rank`, `spectral_entropy`, `spectral_norm`, `frobenius_norm`, `spikes`, and quantiles
    `sigma_q0` ... `sigma_q100` of the singular values. The updates are
    `(W_before (1 - lr weight_decay) - W_after) / lr`. Records of the momentum hold `signal_1` ... `signal_8` too: what
    the gradient of the step repeats of the momentum before it, by eighths of its singular values from the largest on
    (`htmuon.analysis.signal_by_sigma`). A new run starts with the weights before its first step, as
    step 0.

    With `every="auto"` a record is taken when it can be afforded: when all records, this one included, take at most the
    share `cost` of the time. How far apart they are follows from the model and the device, so give a number where the
    same steps are to be recorded again, such as in runs that are compared.

    Args:
        model: its matrices are looked at; a model inside torch.compile or DistributedDataParallel by its own names.
        optimizer: any optimizer of torch over parameters of the model, or a wrapper such as accelerate's: the optimizer
            inside is looked at.
        every: record each step that is a multiple of this; or "auto".
        path: the file of JSON lines; None keeps none.
        cost: for "auto", the share of the wall time that records may take, above 0 and at most 1.
        names: shell-style patterns over parameter names, to look at these instead of the hidden matrices.
        tensorboard: a `SummaryWriter`, or the folder for a new one (`pip install "htmuon[tensorboard]"`).
        step: how many steps a resumed run has done: what was recorded of later steps is dropped, because the run will
            record it again. None starts a new run, whose file must not hold one.
        attach: listen to the optimizer's steps. If False, call `before_step` and `after_step` around each that is
            taken.

    Raises:
        TypeError: `model` is no module and holds none, `optimizer` likewise, or a matrix is complex.
        ValueError: a setting is out of range, a pattern matches nothing, the model has no hidden matrix or a sharded
            one, or the file holds another run or something else.
        ImportError: a folder for TensorBoard is given and that library is not installed.

    Example:
        >>> import htmuon
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 16))
        >>> optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.02)
        >>> monitor = SpectralMonitor(model, optimizer, every=2)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(64, 16)).square().mean().backward()
        ...     optimizer.step()
        >>> [(r["kind"], r["name"], r["step"], r["status"]) for r in monitor.latest if r["name"] == "1.weight"]
        [('weights', '1.weight', 2, 'ok'), ('momentum', '1.weight', 2, 'ok'), ('updates', '1.weight', 2, 'ok')]
        >>> monitor.close()

    A step that is recorded needs memory for two more copies of the matrices, in float32.

    Where other parameters take the place of those of the optimizer, as in accelerate's `prepare`, these are looked at
    from then on. A step that a `torch.amp.GradScaler` skips is none, also where a fused optimizer skips it on its
    device; a step that an optimizer of this library masks is one, with an update of zero.

    Not for sharded parameters, which are no whole matrices; and of several ranks with the same weights one should have
    a monitor.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: int | Literal["auto"] = "auto",
        path: str | os.PathLike[str] | None = None,
        cost: float = 0.01,
        names: Sequence[str] = (),
        tensorboard: ScalarWriter | str | os.PathLike[str] | None = None,
        step: int | None = None,
        attach: bool = True,
    ) -> None:
        if every != "auto" and (type(every) is not int or every < 1):
            raise ValueError(f'every must be a whole number of at least 1, or "auto"; got {every!r}.')
        if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 < cost <= 1:
            raise ValueError(f"cost must be a number in (0, 1], a share of the time; got {cost!r}. Pass 0.01.")
        if step is not None and (type(step) is not int or step < 0):
            raise ValueError(f"step must be the number of steps done, or None for a new run; got {step!r}.")
        model = inner_model(model)
        self.matrices = hidden_matrices(model, names)
        parameters = [matrix.parameter for matrix in self.matrices]
        self._optimizer = optimizer = inner_optimizer(optimizer, parameters, hooked=attach)
        self._followed = FollowedMatrices(model, optimizer, self.matrices)
        self._steps = StepCount(step or 0)
        self.latest: list[Record] = []
        self._every = every
        self._budget = _Budget(cost, self.matrices[0].parameter.device)
        self._started = self._steps.at_most > 0
        self._before: LastUpdate | None = None
        self._momenta: dict[str, Tensor] = {}
        self._stepping = False
        self._resources = ExitStack()
        self._log = None if path is None else self._resources.enter_context(_opened(path, step))
        self._writer = self._resources.enter_context(_writer(tensorboard, step))
        if attach:
            # Not for torch.compile(optimizer.step), which would compile the measuring with the step.
            before_step, after_step = map(torch.compiler.disable, (self.before_step, self.after_step))
            before = optimizer.register_step_pre_hook(lambda *_: before_step())
            after = optimizer.register_step_post_hook(lambda *_: after_step())
            self._resources.callback(before.remove)
            self._resources.callback(after.remove)

    @property
    def step(self) -> int:
        """How many steps were taken; to read it may wait for the device, see `StepCount`."""
        return self._steps.taken()

    @property
    def seconds(self) -> float:
        """How long the records have taken so far."""
        return self._budget.spent

    def before_step(self) -> None:
        """What must be seen before the optimizer's step: called by its hook, or by you with `attach=False`."""
        self._budget.start()
        if not self._started:
            self._started = True
            self.matrices = self._followed.current()
            self._record({"weights": {matrix.name: matrix.parameter for matrix in self.matrices}})
        # A step that calls its parent's step may run the hooks of both: the inner one sees the same weights again.
        self._before = None
        self._stepping = True
        if self._due():
            with self._budget.spending():
                self.matrices = self._followed.current()
                self._before = LastUpdate(self._optimizer, self.matrices)
                found = ((matrix.name, average_of(self._optimizer, matrix.parameter)) for matrix in self.matrices)
                self._momenta = {name: momentum for name, momentum in found if momentum is not None}

    def after_step(self) -> None:
        """Count the step, and record it if it is due: called by the optimizer's hook, or by you with `attach=False`."""
        if not self._stepping:
            return
        self._stepping = False
        # While a GradScaler steps a fused optimizer, this is whether the device skips the step.
        found_inf = getattr(self._optimizer, "found_inf", None)
        self._steps.add(found_inf)
        update, self._before = self._before, None
        if update is None:
            return
        step, skipped = self.step, isinstance(found_inf, Tensor) and bool(found_inf)
        if skipped or (self._every != "auto" and step % self._every):
            return  # steps were skipped: the one that is to be recorded is still to come
        momenta = {matrix.name: momentum_of(self._optimizer, matrix.parameter) for matrix in self.matrices}
        with self._budget.spending():
            directions = update.directions(torch.float32)
            signals = self._signals()
        self._record(
            {
                "weights": {matrix.name: matrix.parameter for matrix in self.matrices},
                "momentum": {name: momentum for name, momentum in momenta.items() if momentum is not None},
                "updates": directions,
            },
            update.rounding,
            signals,
        )

    def sync(self) -> None:
        """Wait until all lines are on the disk: before a checkpoint from which the run may resume."""
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Stop listening, and close the file."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _due(self) -> bool:
        """Whether the coming step is recorded."""
        if self._every != "auto":
            return (self._steps.at_most + 1) % self._every == 0
        return self._budget.allows(3 * len(self.matrices))

    def _signals(self) -> dict[str, Tensor]:
        """What the gradient of the step repeats of the momentum before it, by matrix."""
        found, momenta = {}, self._momenta
        self._momenta = {}
        for matrix in self.matrices:
            # After the step, for a loop may ask for what is before it ahead of the backward pass.
            momentum, gradient = momenta.get(matrix.name), matrix.parameter.grad
            if (
                momentum is not None
                and gradient is not None
                and bool(momentum.isfinite().all() & gradient.isfinite().all())
            ):
                found[matrix.name] = signal_by_sigma(matrix.matrix(momentum), matrix.matrix(gradient))
        return found

    def _record(
        self,
        tensors: dict[RecordKind, dict[str, Tensor]],
        rounding: Mapping[str, Tensor] | None = None,
        signal: Mapping[str, Tensor] | None = None,
    ) -> None:
        with self._budget.spending(sum(map(len, tensors.values()))):
            state = self._optimizer.state
            found = {matrix.name: found_by_rules(state.get(matrix.parameter, {})) for matrix in self.matrices}
            self.latest = spectral_records(self.step, self.matrices, tensors, rounding, signal, found)
            if self._log is not None:
                self._log.write(*self.latest)
            if self._writer is not None:
                write_scalars(self._writer, self.latest)


class _Budget:
    """The time that records may take, and have taken.

    Args:
        share: of the wall time.
        device: of the matrices.
    """

    def __init__(self, share: float, device: torch.device) -> None:
        self.spent = 0.0
        self._device = device
        self._share = share
        self._began: float | None = None
        self._matrices = 0

    def start(self) -> None:
        """The training starts, if it has not."""
        if self._began is None:
            self._began = time.perf_counter()

    def allows(self, matrices: int) -> bool:
        """Whether the share is kept with as many matrices more; the first are a loan, their cost being unknown."""
        if not self._matrices:
            return True
        assert self._began is not None, "allows before start"
        # A record may take half as long again as the mean: on a busy machine the share is to be kept as well.
        expected = self.spent * (1 + 1.5 * matrices / self._matrices)
        return expected <= self._share * (time.perf_counter() - self._began)

    @contextmanager
    def spending(self, matrices: int = 0) -> Iterator[None]:
        """Count the time inside as spent, on as many matrices."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what the training has put into the queue is no cost of the record
        start = time.perf_counter()
        yield
        self.spent += time.perf_counter() - start
        self._matrices += matrices


def _opened(path: str | os.PathLike[str], step: int | None) -> RecordLog:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    records = read_records(path)
    if records and "kind" not in records[0]:
        raise ValueError(
            f"{os.fspath(path)} must be a log of JSON lines with a step and a kind each; its first line is none. "
            "Choose another."
        )
    if step is None and records:
        raise ValueError(
            f"the file of a new run must not hold another's records; {os.fspath(path)} holds some. Choose another, or "
            "say how many steps are done with step=N: its records up to that step stay."
        )
    # A record of step 0 belongs to a start, which will write it again.
    return RecordLog(path, last_step=step or -1)


@contextmanager
def _writer(target: ScalarWriter | str | os.PathLike[str] | None, step: int | None) -> Iterator[ScalarWriter | None]:
    """A writer for a folder, closed at the end; one that is the caller's stays open."""
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    writer = summary_writer(target, step)
    try:
        yield writer
    finally:
        writer.close()
