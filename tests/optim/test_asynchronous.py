"""A step leaves the host alone: it runs without a look at the device, and it can be captured and replayed."""

from unittest import mock

import pytest
import torch
from optim.graphs import Meta, NoLook, Recording
from problems import network
from torch import nn

import htmuon
from htmuon.linalg import Polynomial, Quintic
from htmuon.powers import PowerController

NAMES = list(htmuon.OPTIMIZERS)
# Of equal shape, and with others between, as in a transformer.
SHAPES = [(16, 8), (8, 8), (8, 24), (8, 8), (6, 4, 3, 3), (2, 8, 12), (16, 8)]
# Everything but decompositions, and newton_schulz under a schedule, which reads the exponent.
METHODS = [
    {"method": "auto"},
    *({"method": Polynomial(precision=precision)} for precision in ("float32", "float16", "bfloat16")),
    *({"method": Quintic(precision=precision)} for precision in ("float32", "float16", "bfloat16")),
    {"method": "streaming"},
    {"method": "quintic", "rate_rule": "alignment"},
    {"method": "quintic", "momentum_rule": "two_averages", "weight_update": "hyperball"},
    {"method": "quintic", "momentum_rule": "sum", "weight_update": "cautious"},
    {"method": "quintic", "weight_update": "independent", "weight_decay": 1e-3},
]
# In place of a schedule.
POWER_RULES = [
    {"method": "auto", "power_rule": "alignment"},
    {"method": "polynomial", "rate_rule": "alignment", "power_rule": {"name": "alignment", "lowest": -0.25}},
    {"method": "streaming", "power_rule": "alignment", "spectral_map": "floored_power"},
]
DOWN = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=8)


def on_device(name, device, **settings):
    """Matrices and vectors on a device, with gradients, and an optimizer whose learning rates are tensors there."""
    matrices = [nn.Parameter(torch.empty(shape, device=device)) for shape in SHAPES]
    vectors = [nn.Parameter(torch.empty(7, device=device)) for _ in range(2)]
    for p in matrices + vectors:
        p.grad = torch.empty_like(p)
    rate = torch.full((), 0.02, device=device)
    groups = [{"params": matrices}, {"params": vectors, "use_muon": False}]
    with mock.patch("htmuon.optim.groups.check_parameters"):  # which refuses the meta device
        return htmuon.OPTIMIZERS[name](groups, lr=rate, adamw_lr=rate, **settings)


def steps_without_a_look(optimizer):
    with Meta():
        optimizer.step()  # allocates state and copies tables
        with NoLook("meta"):
            optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", METHODS, ids=str)
@pytest.mark.parametrize("normalization", ["none", "rms"])
def test_no_operation_of_a_step_makes_the_host_wait(name, settings, normalization):
    # Tensors without values take the paths of an accelerator, and nobody can look at them.
    optimizer = on_device(name, "meta", power_schedule=DOWN, normalization=normalization, **settings)
    steps_without_a_look(optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [*htmuon.optim.POWER_SCHEDULES, None])
def test_no_schedule_makes_the_host_wait(schedule):
    settings = {
        "constant": {"power": 0.5},
        "interval": {"power": 0.125, "every": 3},
        "linear": {"start": 0.5, "end": 0.0, "total_steps": 8},
        "logistic": {"start": 0.5, "end": 0.0, "total_steps": 8},
    }
    if schedule is not None:
        schedule = htmuon.power_schedule(schedule, **settings[schedule])
    optimizer = on_device("htmuon", "meta", power_schedule=schedule)
    steps_without_a_look(optimizer)


@pytest.mark.parametrize("settings", [*POWER_RULES, {"power_rule": "held"}], ids=str)
def test_no_power_rule_makes_the_host_wait(settings):
    steps_without_a_look(on_device("htmuon", "meta", **settings))


def test_a_controller_of_powers_does_not_wait_between_its_looks():
    optimizer = on_device("htmuon", "meta", power_rule="held")
    model = nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    # It reads the optimizer's counters once, which have no values here.
    with mock.patch.object(PowerController, "_count_anew", lambda controller: setattr(controller, "_steps", 0)):
        PowerController(model, optimizer, "schatten", every=4)
    steps_without_a_look(optimizer)


def test_newton_schulz_with_a_constant_power_does_not_wait():
    optimizer = on_device("muon", "meta", method="newton_schulz")
    steps_without_a_look(optimizer)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """The host may not look at CPU tensors either."""
    rooms = {
        "optim": ("base", "groups", "matrices"),
        "linalg": ("base", "polynomial", "quintic_steps", "streaming"),
        "spectral": ("base",),
    }
    for module in ("htmuon._checks", *(f"htmuon.{room}.{name}" for room, names in rooms.items() for name in names)):
        monkeypatch.setattr(f"{module}.host_may_look", lambda tensor: False)


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", METHODS[1:], ids=str)
def test_a_replayed_step_follows_power_and_learning_rate(name, settings):
    optimizer = check_replay(name, power_schedule=DOWN, **settings)
    assert optimizer.param_groups[0]["power"] == 0.0


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("settings", POWER_RULES, ids=str)
def test_a_replayed_step_follows_the_power_of_each_matrix(settings):
    optimizer = check_replay("htmuon", **settings)
    found = [state["power"].item() for state in optimizer.state.values() if "power" in state]
    assert len(set(found)) == len(found) > 1


def check_replay(name, **settings):
    """Compare ten steps of a network with those of which the third is replayed."""
    replayed, eager = network(), network()
    rate = torch.tensor(0.02)
    optimizers = [
        htmuon.OPTIMIZERS[name](htmuon.param_groups(m), lr=rate, adamw_lr=rate, **settings) for m in (replayed, eager)
    ]
    recording = Recording()
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        for p, q in zip(replayed.parameters(), eager.parameters(), strict=True):
            gradient = torch.randn(p.shape, generator=generator)
            if step == 5:
                gradient.view(-1)[0] = torch.nan  # a replay masks it too
            if step == 0:
                p.grad = torch.empty_like(p)
            p.grad.copy_(gradient)
            q.grad = gradient
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"].fill_(0.02 / (1 + step))
        if step == 2:  # after the steps that allocate
            with recording:
                optimizers[0].step()
        elif step > 2:
            recording.replay()
        else:
            optimizers[0].step()
        optimizers[1].step()
        for p, q in zip(replayed.parameters(), eager.parameters(), strict=True):
            assert torch.equal(p, q), step
    assert optimizers[0].skipped_steps == 1
    assert optimizers[0].param_groups[0]["steps_taken"] == 9
    return optimizers[0]


@pytest.fixture
def recorded_as_captured(monkeypatch):
    """A recording stands for a CUDA graph: made without taking the step of the optimizer listed here."""
    optimizers = []

    def captured(step):
        (optimizer,) = optimizers
        held = {t for g in optimizer.param_groups for t in [*g["params"], g["steps_taken"], g["skipped_steps"]]}
        held |= {tensor for state in optimizer.state.values() for tensor in state.values()}
        before = {tensor: tensor.detach().clone() for tensor in held}
        recording = Recording()
        with recording:
            step()
        with torch.no_grad():
            for tensor, value in before.items():
                tensor.copy_(value)
        return recording.replay

    monkeypatch.setattr("htmuon.optim.capture._captured", captured)
    monkeypatch.setattr("htmuon.optim.capture._aside", lambda step: step())
    monkeypatch.setattr("htmuon.optim.capture._require_one_gpu", lambda parameters: None)
    return optimizers


class Both:
    """A model whose steps are captured, and one with the optimizer's own."""

    def __init__(self, captured_ones, **settings):
        self.models = [network(), network()]
        settings = {"lr": 0.02, "adamw_lr": 0.02, "power_schedule": DOWN, "method": "quintic", **settings}
        self.optimizers = [htmuon.HTMuon(htmuon.param_groups(model), **settings) for model in self.models]
        captured_ones.append(self.optimizers[0])
        self.step_of_one = htmuon.optim.CapturedStep(self.optimizers[0], warm_up=2)
        self.number = 0

    def step(self):
        self.number += 1
        for optimizer, model in zip(self.optimizers, self.models, strict=True):
            optimizer.zero_grad(set_to_none=False)
            for index, p in enumerate(model.parameters()):
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * self.number + index)))
        self.step_of_one()
        self.optimizers[1].step()
        for p, q in zip(self.models[0].parameters(), self.models[1].parameters(), strict=True):
            # The learning rate is a float32 number here, and one of float64 there.
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_captured_steps_are_those_of_the_optimizer(recorded_as_captured):
    both = Both(recorded_as_captured)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) for optimizer in both.optimizers]
    for _ in range(8):
        both.step()
        for scheduler in schedulers:
            scheduler.step()
    first = next(both.models[0].parameters())
    first.grad = torch.ones_like(first)
    before = [p.detach().clone() for p in both.models[0].parameters()]
    with pytest.raises(ValueError, match="gradients must stay in the memory"):
        both.step_of_one()
    assert all(torch.equal(p, q) for p, q in zip(before, both.models[0].parameters(), strict=True))


def change_momentum(optimizer, model):
    optimizer.param_groups[0]["momentum"] = 0.5


def write_a_number_as_rate(optimizer, model):
    optimizer.param_groups[0]["lr"] = 0.1


def put_another_tensor_as_rate(optimizer, model):
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)


def load_a_state(optimizer, model):
    optimizer.load_state_dict(optimizer.state_dict())


def swap_the_weights(optimizer, model):
    for p in model.parameters():
        p.data = p.data.clone()


def take_another_method(optimizer, model):
    optimizer.param_groups[0]["method"] = "streaming"


def add_a_group(optimizer, model):
    model.extra = nn.Parameter(torch.ones(6, 5))
    optimizer.add_param_group({"params": [("extra", model.extra)], "use_muon": True})


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize(
    "change",
    [
        change_momentum,
        write_a_number_as_rate,
        put_another_tensor_as_rate,
        load_a_state,
        swap_the_weights,
        take_another_method,
        add_a_group,
    ],
)
def test_what_a_graph_would_not_know_of_is_noticed(recorded_as_captured, change):
    both = Both(recorded_as_captured)
    for _ in range(4):
        both.step()
    for optimizer, model in zip(both.optimizers, both.models, strict=True):
        change(optimizer, model)
    for _ in range(4):
        both.step()


@pytest.mark.usefixtures("as_on_an_accelerator")
def test_changes_at_every_step_are_followed_and_said(recorded_as_captured):
    both = Both(recorded_as_captured)

    def steps():
        for number in range(9):
            for optimizer in both.optimizers:
                optimizer.param_groups[0]["momentum"] = 0.9 - number / 100
            both.step()

    with pytest.warns(UserWarning, match="has changed 3 times"):
        steps()


def test_a_captured_step_says_what_it_needs():
    optimizer = htmuon.HTMuon([nn.Parameter(torch.randn(4, 4))])
    with pytest.raises(ValueError, match="needs parameters on one CUDA device; got cpu"):
        htmuon.optim.CapturedStep(optimizer)
    with pytest.raises(ValueError, match="warm_up must be a whole number of at least 1; got 0"):
        htmuon.optim.CapturedStep(optimizer, warm_up=0)


def test_a_recording_notices_what_python_computes():
    """The test above can fail: a power that is a number stays what it was."""
    weight = nn.Parameter(torch.randn(4, 4))
    weight.grad = torch.randn(4, 4)
    optimizer = htmuon.HTMuon([weight], method="polynomial", power_schedule=DOWN)
    optimizer.step()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Recording():
        optimizer.step()
