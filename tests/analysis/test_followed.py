"""A monitor finds the optimizer in its wrappers, follows its parameters, and counts the steps that were taken."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from htmuon.analysis import SpectralMonitor, analyze_matrices


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 20), nn.Linear(20, 3))


def steps(model: nn.Module, optimizer, count: int = 1) -> None:  # type: ignore[no-untyped-def]
    for _ in range(count):
        model(torch.randn(40, 24)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def kinds(monitor: SpectralMonitor) -> set[tuple[str, str]]:
    return {(record["kind"], record["name"]) for record in monitor.latest}


EVERYTHING = {(kind, f"{i}.weight") for kind in ("weights", "momentum", "updates") for i in (0, 1)}


class Accelerated(torch.optim.Optimizer):
    """As in accelerate: an optimizer by its class alone, whose constructor was never called."""

    def __init__(self, optimizer):  # type: ignore[no-untyped-def]
        self.optimizer = optimizer

    @property
    def param_groups(self):  # type: ignore[no-untyped-def]
        return self.optimizer.param_groups

    @property
    def state(self):  # type: ignore[no-untyped-def]
        return self.optimizer.state

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):  # type: ignore[no-untyped-def]
        self.optimizer.zero_grad(set_to_none)


class Sharpness(torch.optim.Optimizer):
    """As SAM: an optimizer of its own with the groups of the one in it, which has the momentum."""

    def __init__(self, base_optimizer):  # type: ignore[no-untyped-def]
        super().__init__(base_optimizer.param_groups, {})
        self.base_optimizer = base_optimizer
        self.param_groups = base_optimizer.param_groups

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        self.base_optimizer.step(closure)


def plain_wrapper(attribute: str):  # type: ignore[no-untyped-def]
    class Wrapper:
        def __init__(self, inner) -> None:  # type: ignore[no-untyped-def]
            setattr(self, attribute, inner)
            self.step, self.zero_grad = inner.step, inner.zero_grad

    return Wrapper


WRAPPERS = {
    "accelerate": Accelerated,
    "sharpness": Sharpness,
    "twice": lambda inner: Accelerated(plain_wrapper("_optimizer")(inner)),
    **{
        name: plain_wrapper(name)
        for name in ("optimizer", "base", "base_optimizer", "original_optimizer", "_optimizer")
    },
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("attach", [True, False])
def test_the_optimizer_in_a_wrapper(name: str, attach: bool) -> None:
    model = make_model()
    wrapper = WRAPPERS[name](torch.optim.AdamW(model.parameters(), lr=0.01))
    monitor = SpectralMonitor(model, wrapper, every=1, attach=attach)
    for _ in range(2):
        if not attach:
            monitor.before_step()
        steps(model, wrapper)
        if not attach:
            monitor.after_step()
    assert monitor.step == 2
    assert kinds(monitor) == EVERYTHING
    assert all(record["status"] == "ok" for record in monitor.latest)


class Engine:
    """As an engine that is no module, and keeps one."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


@pytest.mark.parametrize("wrap", [torch.compile, lambda model: nn.ModuleDict({"module": model}), Engine])
def test_the_model_in_a_wrapper_has_its_own_names(wrap) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = SpectralMonitor(wrap(model), optimizer, every=1, names=["[01].weight"])
    steps(model, optimizer)
    assert kinds(monitor) == EVERYTHING


@pytest.mark.parametrize("attach", [True, False])
@pytest.mark.parametrize("thing", [None, [], object(), Engine(nn.Linear(2, 2))])
def test_what_is_no_optimizer_or_model_is_told_in_a_sentence(thing: object, attach: bool) -> None:
    model = make_model()
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer, or keep one as \.optimizer, "):
        SpectralMonitor(model, thing, attach=attach)  # type: ignore[arg-type]
    if not isinstance(thing, Engine):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, or keep one as \.module or \._orig_mod"):
            SpectralMonitor(thing, torch.optim.SGD(model.parameters()), attach=attach)  # type: ignore[arg-type]


def swap(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """New parameters in the places of the old ones, as accelerate puts sharded ones."""
    new = {parameter: nn.Parameter(parameter.detach().clone()) for parameter in model.parameters()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, new[parameter])
    for group in optimizer.param_groups:
        group["params"] = [new[parameter] for parameter in group["params"]]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("first", [0, 3])
def test_new_parameters_in_the_place_of_the_old_are_followed(named: bool, first: int) -> None:
    found = []
    for swapped in (False, True):
        model = make_model()
        optimizer = torch.optim.AdamW(model.named_parameters() if named else model.parameters(), lr=0.01)
        monitor = SpectralMonitor(model, optimizer, every=2)
        steps(model, optimizer, first)
        if swapped:
            state = copy.deepcopy(optimizer.state_dict())
            swap(model, optimizer)
            optimizer.state.clear()
            optimizer.load_state_dict(state)
            if named:
                for values in (optimizer.param_groups[0]["params"], optimizer.param_groups[0]["param_names"]):
                    values.reverse()  # names, not places
        steps(model, optimizer, 4 - first)
        assert kinds(monitor) == EVERYTHING
        [expected] = analyze_matrices({"": model[1].weight})
        [record] = [r for r in monitor.latest if (r["kind"], r["name"]) == ("weights", "1.weight")]
        assert record["spectral_norm"] == pytest.approx(expected.spectral_norm, rel=1e-5)  # six digits are kept
        found.append(monitor.latest)
    assert repr(found[0]) == repr(found[1])


def test_a_parameter_that_left_the_optimizer_is_seen_by_its_weights() -> None:
    """Frozen, with its group gone; the matrix that moves up into its place is no new one."""
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 3))
    optimizer = torch.optim.AdamW([{"params": layer.weight} for layer in model], lr=0.01)
    monitor = SpectralMonitor(model, optimizer, every=1)
    del optimizer.param_groups[0]
    model(torch.randn(40, 20)).square().mean().backward()
    optimizer.step()
    assert kinds(monitor) == EVERYTHING - {("momentum", "0.weight"), ("updates", "0.weight")}


def test_parameters_that_are_gone_are_an_error_not_a_record() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = SpectralMonitor(model, optimizer, every=2)
    steps(model, optimizer)
    other = make_model()
    model[1] = nn.Linear(20, 20)
    optimizer.param_groups[0]["params"] = [other[0].weight]
    with pytest.raises(ValueError, match=r"'1\.weight' is no longer in it\. Make the monitor after"):
        steps(model, optimizer)
    assert [record["step"] for record in monitor.latest] == [0, 0]


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process group of so many ranks, of which the others are made up."""
    world: int = request.param
    import torch.testing._internal.distributed.fake_pg as fake

    dist.init_process_group("fake", store=fake.FakeStore(), rank=0, world_size=world)
    yield world
    dist.destroy_process_group()


def prepare(model: nn.Module, optimizer: torch.optim.Optimizer, world: int) -> None:
    """As accelerate's `prepare` with FSDP2: shard the model, put the new parameters into the optimizer."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    new = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [new[names[parameter]] for parameter in group["params"]]


@pytest.mark.parametrize("ranks", [1], indirect=True)
def test_sharded_parameters_of_one_rank_are_whole_and_followed(ranks: int) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    monitor = SpectralMonitor(model, optimizer, every=1)
    prepare(model, optimizer, ranks)
    parameter = model[1].weight
    assert hasattr(parameter, "placements")
    before = parameter.to_local().detach().clone()
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    assert kinds(monitor) == EVERYTHING
    records = {record["kind"]: record for record in monitor.latest if record["name"] == "1.weight"}
    after = parameter.to_local().detach()
    assert not torch.equal(before, after)
    assert records["weights"]["frobenius_norm"] == pytest.approx(float(after.norm()), rel=1e-5)
    assert records["updates"]["frobenius_norm"] == pytest.approx(float((before - after).norm() / 0.25), rel=1e-5)
    assert records["momentum"]["frobenius_norm"] == records["updates"]["frobenius_norm"]
    assert [matrix.name for matrix in SpectralMonitor(model, optimizer).matrices] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("ranks", [2], indirect=True)
def test_sharded_parameters_of_several_ranks_are_an_error_not_a_record(ranks: int) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    monitor = SpectralMonitor(model, optimizer, every=1)
    prepare(model, optimizer, ranks)
    with pytest.raises(ValueError, match=r"'0\.weight' is sharded over ranks"):
        optimizer.step()
    assert monitor.latest == []


OVERFLOWS = (0, 1, 4, 7)


def scaled_run(every: int, *, fused: bool) -> tuple[SpectralMonitor, list[tuple[int, str, float]], Tensor]:
    """Ten steps under a GradScaler, of which four overflow: the monitor, its records of one matrix, Adam's counter."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    monitor = SpectralMonitor(model, optimizer, every=every)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    found: list[tuple[int, str, float]] = []
    latest = monitor.latest
    for i in range(10):
        loss = model(torch.randn(40, 24)).square().mean() * (math.inf if i in OVERFLOWS else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if monitor.latest is not latest:
            latest = monitor.latest
            mine = [record for record in latest if record["name"] == "1.weight" and record["step"]]
            found += [(r["step"], r["kind"], round(r["spectral_norm"], 4)) for r in mine]
    state = optimizer.state[model[1].weight]
    return monitor, found, state["step"] if state else torch.zeros(())


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_step_that_the_scaler_skips_is_none_whoever_skips_it(every: int) -> None:
    """A fused optimizer skips on its device, others are never called: the records are the same."""
    (fused, records, counter), (_, expected, _) = (scaled_run(every, fused=fused) for fused in (True, False))
    assert fused.step == counter == 10 - len(OVERFLOWS)
    assert records == expected
    assert {step for step, _, _ in records} == set(range(every, 7, every))


def test_a_step_that_is_not_recorded_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    monitor = SpectralMonitor(model, optimizer, every=100)
    monitor.before_step()
    monitor.after_step()
    read = []
    for method in ("__bool__", "__int__", "__float__", "item", "tolist", "cpu"):
        original = getattr(Tensor, method)
        monkeypatch.setattr(
            Tensor, method, lambda self, *rest, original=original: read.append(self) or original(self, *rest)
        )
    optimizer.found_inf = torch.ones(())  # as the scaler does
    for _ in range(3):
        monitor.before_step()
        monitor.after_step()
    assert read == []
    assert monitor.step == 1
    assert len(read) > 0
