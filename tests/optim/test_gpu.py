"""On a GPU: no step waits for the device, and a captured step is an eager one."""

import pytest
import torch
from kernels.products import needs_gpu
from torch import nn

import htmuon
from htmuon.linalg import Polynomial

pytestmark = [
    pytest.mark.gpu,
    needs_gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NAMES = list(htmuon.OPTIMIZERS)
SHAPES = [(64, 32), (32, 32), (32, 32), (320, 512), (16, 4, 3, 3), (2, 24, 40)]
METHODS = [
    {"method": "auto"},
    *({"method": Polynomial(precision=precision)} for precision in ("float32", "float16", "bfloat16")),
    {"method": "streaming"},
]
SCHEDULES = {
    "constant": {"power": 0.5},
    "interval": {"power": 0.125, "every": 3},
    "linear": {"start": 0.5, "end": 0.0, "total_steps": 8},
    "logistic": {"start": 0.5, "end": 0.0, "total_steps": 8},
}
DOWN = htmuon.power_schedule("linear", **SCHEDULES["linear"])


def parameters():
    generator = torch.Generator("cuda").manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=generator, device="cuda")) for s in [*SHAPES, (7,), (9,)]]


def optimizer_of(name, weights, **settings):
    rate = torch.full((), 0.02, device="cuda")
    groups = [{"params": weights[: len(SHAPES)]}, {"params": weights[len(SHAPES) :], "use_muon": False}]
    return htmuon.OPTIMIZERS[name](groups, lr=rate, adamw_lr=rate, **settings)


def draw_gradients(weights, generator):
    """Into the same memory at every step, as a graph needs it."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.empty_like(weight)
        weight.grad.normal_(generator=generator)


@pytest.fixture
def no_waiting():
    """Refuse every operation with which the host waits for the device."""

    def refuse():
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    yield refuse
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_step_does_not_wait(name, settings, no_waiting):
    weights = parameters()
    optimizer = optimizer_of(name, weights, power_schedule=DOWN, **settings)
    draw_gradients(weights, torch.Generator("cuda"))
    optimizer.step()  # allocates state and copies tables
    no_waiting()
    optimizer.step()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_does_not_wait(schedule, no_waiting):
    weights = parameters()
    optimizer = optimizer_of("htmuon", weights, power_schedule=htmuon.power_schedule(schedule, **SCHEDULES[schedule]))
    draw_gradients(weights, torch.Generator("cuda"))
    optimizer.step()
    no_waiting()
    optimizer.step()


@pytest.mark.parametrize("compiling", [False, True])
@pytest.mark.parametrize("name", ["htmuon", "htnormuon", "adamuon"])
@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_a_captured_step_is_an_eager_one(name, settings, compiling):
    runs = [parameters(), parameters()]
    captured, eager = (
        optimizer_of(name, weights, power_schedule=DOWN, compile=compiling and weights is runs[0], **settings)
        for weights in runs
    )
    generators = [torch.Generator("cuda").manual_seed(2) for _ in runs]
    graph = torch.cuda.CUDAGraph()

    def prepare(step):
        for weights, generator, optimizer in zip(runs, generators, (captured, eager), strict=True):
            draw_gradients(weights, generator)
            if step == 5:
                weights[0].grad.view(-1)[0] = torch.nan  # masked inside of the graph
            for group in optimizer.param_groups:
                group["lr"].fill_(0.02 / (1 + step))

    side = torch.cuda.Stream()
    for step in range(10):
        prepare(step)
        eager.step()
        if step < 3:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                captured.step()
            torch.cuda.current_stream().wait_stream(side)
            continue
        if step == 3:
            with torch.cuda.graph(graph):
                captured.step()
        graph.replay()
        for one, other in zip(*runs, strict=True):
            # The kernels are the same but for fused ones: a few units of float16 or bfloat16 products, times lr.
            atol = 1e-5 if settings["method"] in (Polynomial(precision="float32"), "streaming") else 2e-3
            torch.testing.assert_close(one, other, rtol=0, atol=atol)
    assert captured.skipped_steps.item() == 1
    assert captured.param_groups[0]["steps_taken"].item() == 9
    assert captured.param_groups[0]["power"].item() == eager.param_groups[0]["power"].item() == 0.0


@pytest.mark.parametrize("settings", METHODS, ids=str)
def test_captured_steps_are_those_of_the_optimizer(settings):
    runs = [parameters(), parameters()]
    captured, eager = (optimizer_of("htmuon", weights, power_schedule=DOWN, **settings) for weights in runs)
    generators = [torch.Generator("cuda").manual_seed(2) for _ in runs]
    step = htmuon.optim.CapturedStep(captured)
    for number in range(10):
        for weights, generator, optimizer in zip(runs, generators, (captured, eager), strict=True):
            draw_gradients(weights, generator)
            for group in optimizer.param_groups:
                group["lr"].fill_(0.02 / (1 + number))
                group["momentum"] = 0.9 if number < 6 else 0.8
        eager.step()
        step()
        for one, other in zip(*runs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert captured.param_groups[0]["steps_taken"].item() == 10


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_tf32_outside_is_float32_inside(precision):
    matrix = torch.randn(512, 512, device="cuda")
    expected = htmuon.spectral_power(matrix, 0.125, method=Polynomial(precision="float32"))
    torch.set_float32_matmul_precision(precision)
    try:
        mapped = htmuon.spectral_power(matrix, 0.125, method=Polynomial(precision="float32"))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(mapped, expected)
