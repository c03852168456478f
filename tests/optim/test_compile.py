"""The compiled bracket: one graph, compiled once for each shape, with the results of the eager one."""

import functools
import shutil

import pytest
import torch
import torch._dynamo
from problems import network
from torch import nn

import htmuon
from htmuon._typing import NORMALIZATIONS
from htmuon.linalg import METHODS, Polynomial, Quintic
from htmuon.optim.bracket import compiled
from htmuon.spectral import MAPS, Knee

NAMES = list(htmuon.OPTIMIZERS)
DOWN = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=8)
# Traced, made functional and decomposed as for Inductor, without a C++ compiler.
TRACED = "aot_eager"
# Traced alone: enough to count how often torch compiles, in a quarter of the time.
CAPTURED = "eager"
LEVELS = {"method": Polynomial(levels=4)}
# Of float32: other orders of sums, and directions near the lower end of the range, where a level polynomial is steep.
ROUNDING = 2e-5
TALL, CONVOLUTION = (16, 8), (6, 4, 3, 3)  # the second is a wide matrix, and stored in another shape

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*_prims_common.*:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    compiled.cache_clear()
    yield
    compiled.cache_clear()


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=TRACED))


@pytest.fixture
def captured(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=CAPTURED))


def run_both(name, steps=4, shapes=(CONVOLUTION,), forms=None, **settings):
    """Equal matrices under equal gradients, eager and compiled, once for each shape and in the first step.

    Gradients are given rather than computed, as training would make rounding grow from step to step.
    """
    results = []
    for compiling in (False, True):
        generator = torch.Generator().manual_seed(1)
        weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = htmuon.OPTIMIZERS[name](weights, compile=compiling, **settings)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
        for step in range(steps):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
                optimizer.step()
            scheduler.step()
        results.append(weights)
    assert compiled.cache_info().misses == (len(shapes) if forms is None else forms)
    return list(zip(*results, strict=True))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, LEVELS) for name in NAMES),
        *(("htmuon", {**LEVELS, "normalization": n, "shapes": (TALL,)}) for n in NORMALIZATIONS[1:]),
        ("htmuon", {"method": "streaming", "shapes": (TALL, CONVOLUTION)}),
        ("htnormuon", {"method": "streaming", "normalization": "rms"}),
        ("htmuon", {**LEVELS, "lr": torch.tensor(0.02)}),
        ("htmuon", {**LEVELS, "spectral_map": Knee(0.5, tau=0.05)}),
        ("htmuon", {"method": Quintic(precision="float32"), "normalization": "rms"}),
    ],
    ids=str,
)
def test_a_compiled_step_is_the_eager_one_and_follows_schedules_without_compiling_anew(name, settings):
    for eager, other in run_both(name, power_schedule=DOWN, **settings):
        torch.testing.assert_close(eager, other, rtol=0, atol=ROUNDING)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("precision", "atol"), [("float16", 2e-4), ("bfloat16", 2e-3)])
def test_half_precisions_compile(precision, atol):
    # A few units of the narrow dtype, times lr: compiled operations may keep more digits between them.
    for eager, other in run_both("htmuon", power_schedule=DOWN, method=Polynomial(4, precision)):
        torch.testing.assert_close(eager, other, rtol=0, atol=atol)


@pytest.mark.usefixtures("captured")
def test_more_shapes_than_torch_compiles_of_one_function():
    weights = [nn.Parameter(torch.randn(n, 4)) for n in range(2, 12)]
    optimizer = htmuon.Muon(weights, method="newton_schulz", compile=True)
    for step in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            optimizer.step()
    assert compiled.cache_info().misses == len(weights)


@pytest.mark.usefixtures("captured")
def test_a_power_set_by_hand_is_compiled_once_for_each_value():
    weights = [nn.Parameter(torch.eye(6, 4)) for _ in range(2)]
    optimizers = [htmuon.HTMuon([w], method=Polynomial(levels=3), compile=w is weights[0]) for w in weights]
    for step in range(6):
        weights[0].grad = torch.randn(6, 4)
        weights[1].grad = weights[0].grad.clone()
        with torch.compiler.set_stance("fail_on_recompile" if step > 2 else "default"):
            for optimizer in optimizers:
                optimizer.param_groups[0]["power"] = 0.1 * (step % 3)
                optimizer.step()
    torch.testing.assert_close(*weights, rtol=0, atol=ROUNDING)
    assert compiled.cache_info().misses == 3


# The streaming method computes a map within the bracket. The polynomial one gets numbers that were made of it before,
# and what is done with those is traced to the end above.
@pytest.mark.parametrize(("method", "backend"), [("polynomial", "captured"), ("streaming", "traced")])
@pytest.mark.parametrize("spectral_map", list(MAPS))
def test_every_map_compiles(spectral_map, method, backend, request):
    request.getfixturevalue(backend)
    for power in (0.0, 0.125, 1.0):
        try:
            function = MAPS[spectral_map](power)
        except ValueError:
            continue  # the maps that are published for one exponent
        if not METHODS[method].can(function):
            continue
        method = Polynomial(levels=3) if method == "polynomial" else method
        for eager, other in run_both("htmuon", 2, spectral_map=spectral_map, power=power, method=method):
            torch.testing.assert_close(eager, other, rtol=0, atol=ROUNDING)
            return
    assert spectral_map in ("rank_power", "floored_power")


@pytest.mark.usefixtures("traced")
def test_newton_schulz_compiles_for_a_power_that_stays():
    for eager, other in run_both("muon", method="newton_schulz"):
        torch.testing.assert_close(eager, other, rtol=0, atol=2e-3)  # five steps in bfloat16


@pytest.mark.parametrize("method", ["eigh", "svd"])
def test_decompositions_stay_eager(method):
    for eager, other in run_both("htmuon", shapes=(TALL, CONVOLUTION), forms=0, method=method):
        assert torch.equal(eager, other)


@pytest.mark.parametrize("name", NAMES)
def test_slots_are_values(name):
    optimizer = htmuon.OPTIMIZERS[name](htmuon.param_groups(network()))
    group = optimizer.param_groups[0]
    for slot in (optimizer.precondition, optimizer.adaptation):
        assert slot(group) == slot(group)
        assert hash(slot(group)) == hash(slot(group))


@pytest.mark.skipif(shutil.which("c++") is None, reason="Inductor needs a C++ compiler on the CPU; c++ is not found")
def test_inductor_compiles_the_bracket():
    weight = nn.Parameter(torch.randn(2, 12, 20))
    other = nn.Parameter(weight.detach().clone())
    optimizers = [
        htmuon.HTNorMuon([p], power_schedule=DOWN, method=Polynomial(levels=3), compile=p is other)
        for p in (weight, other)
    ]
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        other.grad = weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(weight, other, rtol=0, atol=ROUNDING)
