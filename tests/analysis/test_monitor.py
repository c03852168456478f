"""The monitor sees what happened, and nothing of the run is different for it."""

import copy
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

import htmuon
from htmuon.analysis import SpectralMonitor, analyze_matrices
from htmuon.analysis.record_log import RecordLog, read_records
from htmuon.baselines.adamw import AdamW

OPTIMIZERS = {
    "HTMuon": lambda model: htmuon.HTMuon(htmuon.param_groups(model), lr=0.01),
    "Muon": lambda model: htmuon.Muon(htmuon.param_groups(model), lr=0.01, method="newton_schulz"),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1),
    "torch's Muon": lambda model: torch.optim.Muon([model[1].weight, model[3].weight], lr=0.01),
}


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(56, 48),
        torch.nn.Linear(48, 40),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(40, 48),
        torch.nn.Linear(48, 40),
    )


def steps(model, optimizer, count, after=lambda: None):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(80, 56)).square().mean().backward()
        optimizer.step()
        after()


def same(one, other):
    """Whether two nests of dicts, lists and tuples are equal, their tensors to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def picked(records, **wanted):
    return [record for record in records if all(record[key] == value for key, value in wanted.items())]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_changes_no_bit_of_a_run(name, tmp_path):
    outcomes = []
    for monitored in (True, False):
        model = make_model()
        optimizer = OPTIMIZERS[name](model)
        monitor = SpectralMonitor(model, optimizer, every=1, path=tmp_path / "log") if monitored else None
        steps(model, optimizer, 5)
        if monitor is not None:
            assert monitor.step == 5
            assert len(monitor.latest) == 3 * 3 or name == "torch's Muon"
            monitor.close()
        gradients = [p.grad for p in model.parameters()]
        state = copy.deepcopy(optimizer.state_dict())
        outcomes.append((model.state_dict(), gradients, state, torch.get_rng_state()))
    assert same(*outcomes)


def test_weights_momentum_and_updates_are_those_of_the_step():
    model = make_model()
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.01, method="svd", weight_decay=0.5)
    monitor = SpectralMonitor(model, optimizer, every=3)
    steps(model, optimizer, 3)
    weight = model[1].weight
    for kind, matrix in (("weights", weight), ("momentum", optimizer.state[weight]["momentum_buffer"])):
        [record] = picked(monitor.latest, kind=kind, name="1.weight")
        [expected] = analyze_matrices({"": matrix.detach()})
        sigma = torch.linalg.svdvals(matrix.detach().double())
        # Six digits are kept.
        assert record["alpha_ks"] == pytest.approx(expected.fits["ks"].alpha, rel=1e-5)
        assert record["alpha_hill"] == pytest.approx(expected.fits["hill"].alpha, rel=1e-5)
        assert record["stable_rank"] == pytest.approx(float(sigma.square().sum() / sigma[0] ** 2), rel=1e-5)
        for percent in (0, 10, 25, 50, 75, 90, 100):
            assert record[f"sigma_q{percent}"] == pytest.approx(float(sigma.quantile(percent / 100)), rel=1e-4)
    [update] = picked(monitor.latest, kind="updates", name="1.weight")
    # All singular values of a polar factor are one, here up to the rounding of weights of size 0.2, divided by lr.
    assert update["shape"] == [40, 48]
    assert [update[key] for key in ("sigma_q0", "sigma_q100")] == pytest.approx([1, 1], abs=3e-5)


def test_the_factor_of_a_rate_is_recorded_and_counted_in():
    model = make_model()
    rule = htmuon.optim.Alignment(speed=5.0, averaging=0.0)
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.01, method="svd", weight_decay=0.5, rate_rule=rule)
    monitor = SpectralMonitor(model, optimizer, every=4)
    steps(model, optimizer, 4)
    factor = optimizer.state[model[1].weight]["log_rate"].exp().item()
    assert abs(factor - 1) > 0.01
    [momentum] = picked(monitor.latest, kind="momentum", name="1.weight")
    assert momentum["rate_factor"] == pytest.approx(factor, rel=1e-5)
    [update] = picked(monitor.latest, kind="updates", name="1.weight")
    # The update of a polar factor, whatever the rate of its matrix; as above.
    assert [update[key] for key in ("sigma_q0", "sigma_q100")] == pytest.approx([1, 1], abs=3e-5)


def test_the_power_of_a_matrix_is_recorded():
    model = make_model()
    rule = htmuon.optim.PowerAlignment(speed=5.0, averaging=0.0)
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.01, method="svd", power_rule=rule)
    monitor = SpectralMonitor(model, optimizer, every=4)
    steps(model, optimizer, 4)
    power = optimizer.state[model[1].weight]["power"].item()
    assert abs(power) > 0.01
    [momentum] = picked(monitor.latest, kind="momentum", name="1.weight")
    assert momentum["power"] == pytest.approx(power, rel=1e-5)
    assert "rate_factor" not in momentum


def test_decay_that_is_part_of_the_gradient_stays_in_the_update():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, weight_decay=0.5)
    monitor = SpectralMonitor(model, optimizer, every=1)
    before = model[1].weight.detach().clone()
    steps(model, optimizer, 1)
    expected = torch.linalg.svdvals((model[1].weight.grad + 0.5 * before).double())
    [update] = picked(monitor.latest, kind="updates", name="1.weight")
    assert update["sigma_q100"] == pytest.approx(float(expected[0]), rel=1e-4)
    assert not picked(monitor.latest, kind="momentum")  # SGD has none without its setting


@pytest.mark.parametrize("weight_update", ["cautious", "independent", "hyperball"])
def test_what_another_weight_update_does_stays_in_the_update(weight_update):
    model = make_model()
    groups, decay = htmuon.param_groups(model), 0.0 if weight_update == "hyperball" else 0.01
    optimizer = htmuon.Muon(groups, lr=0.25, method="svd", weight_decay=decay, weight_update=weight_update)
    monitor = SpectralMonitor(model, optimizer, every=1)
    before = model[1].weight.detach().clone()
    steps(model, optimizer, 1)
    expected = torch.linalg.svdvals((before.double() - model[1].weight.detach().double()) / 0.25)
    [update] = picked(monitor.latest, kind="updates", name="1.weight")
    assert update["sigma_q100"] == pytest.approx(float(expected[0]), rel=1e-4)


def test_the_learning_rate_is_that_of_the_step():
    model = make_model()
    optimizer = htmuon.Muon(htmuon.param_groups(model), lr=0.01, method="svd")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step == 2 else 0.5**step)
    monitor = SpectralMonitor(model, optimizer, every=1)
    largest = []
    steps(
        model,
        optimizer,
        4,
        lambda: (
            largest.append(picked(monitor.latest, kind="updates", name="1.weight")[0]["sigma_q100"]),
            schedule.step(),
        ),
    )
    # The third step has a learning rate of zero.
    assert largest == pytest.approx([1, 1, 0, 1], abs=3e-4)


def test_a_masked_step_has_no_update():
    model = make_model()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.01)
    monitor = SpectralMonitor(model, optimizer, every=1)
    model(torch.full((4, 56), math.nan)).sum().backward()
    optimizer.step()
    assert {record["status"] for record in picked(monitor.latest, kind="updates")} == {"zero"}
    assert {record["status_ks"] for record in picked(monitor.latest, kind="updates")} == {"too_few"}


def test_which_steps_are_recorded(tmp_path):
    model = make_model()
    optimizer = OPTIMIZERS["AdamW"](model)
    with SpectralMonitor(model, optimizer, every=3, path=tmp_path / "log"):
        steps(model, optimizer, 7)
    steps(model, optimizer, 3)  # nobody listens any more
    records = read_records(tmp_path / "log")
    kinds = [(step, kind) for step in (3, 6) for kind in ("weights", "momentum", "updates")]
    assert list(dict.fromkeys((r["step"], r["kind"]) for r in records)) == [(0, "weights"), *kinds]
    assert [r["name"] for r in picked(records, step=3, kind="updates")] == ["0.weight", "1.weight", "3.weight"]


def test_a_resumed_run_writes_what_a_whole_one_does(tmp_path):
    def run(count, path, saved=None, step=None):
        model = make_model()
        optimizer = OPTIMIZERS["HTMuon"](model)
        if saved:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
            torch.set_rng_state(saved[2])
        with SpectralMonitor(model, optimizer, every=2, path=path, step=step):
            steps(model, optimizer, count)
        return copy.deepcopy((model.state_dict(), optimizer.state_dict(), torch.get_rng_state()))

    run(6, tmp_path / "whole")
    saved = run(3, tmp_path / "broken")
    run(2, tmp_path / "broken", saved, step=3)  # goes on to step 5, and is killed while it writes
    with (tmp_path / "broken").open("a") as file:
        file.write('{"step": 4, "kind": "up')
    run(3, tmp_path / "broken", saved, step=3)
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()
    with pytest.raises(ValueError, match=r"a new run must not hold another's records.*step=N"):
        run(1, tmp_path / "whole")
    assert len(read_records(tmp_path / "whole")) == len(read_records(tmp_path / "broken"))


OTHERS = ['{"lr": 1}\n', '{"step": 3, "loss": 1}\n', '{"epoch": 3, "data":']


@pytest.mark.parametrize("content", ["years of work\n", "years of work", "[1]", "\n", *OTHERS])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "log"
    path.write_text(content)
    model = make_model()
    with pytest.raises(ValueError, match="must be a log of JSON lines"):
        SpectralMonitor(model, OPTIMIZERS["AdamW"](model), path=path, step=2)
    assert path.read_text() == content


def test_a_log_has_null_where_there_is_no_number(tmp_path):
    with RecordLog(tmp_path / "log", last_step=0) as log:
        log.write({"step": 1, "alpha": math.nan}, {"step": 2, "all": [1.0, math.inf]})
        log.sync()
    assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == [
        {"step": 1, "alpha": None},
        {"step": 2, "all": [1.0, None]},
    ]
    assert read_records(tmp_path / "log", last_step=1) == [{"step": 1, "alpha": None}]
    assert read_records(tmp_path / "no such log") == []


def test_auto_keeps_the_share(monkeypatch):
    """A step takes 1 s, a matrix of a record 0.25 s, by a clock of our own; there are three matrices."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("htmuon.analysis.monitor.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def records(step, matrices, tensors, rounding, signal, factors):
        clock.now += 0.25 * sum(map(len, tensors.values()))
        return [step]

    monkeypatch.setattr("htmuon.analysis.monitor.spectral_records", records)
    model = make_model()
    optimizer = OPTIMIZERS["AdamW"](model)
    monitor = SpectralMonitor(model, optimizer, cost=0.05, attach=False)
    model(torch.randn(4, 56)).sum().backward()
    recorded = [0]  # the start alone is a loan
    for _ in range(300):
        monitor.before_step()
        optimizer.step()
        clock.now += 1
        monitor.after_step()
        if monitor.latest != recorded[-1:]:
            recorded += monitor.latest
            assert monitor.seconds <= 0.05 * (clock.now - 100)
    # 0.75 s for the start, 2.25 s for each record, 3.375 s put by for it: record k may begin when 37.5 + 45 k s are
    # over, 2.25 k - 1.5 s of them spent on records.
    assert recorded == [0, 83, 126, 169, 211, 254, 297]
    assert monitor.seconds == 0.75 + 6 * 2.25


def test_a_step_that_calls_its_parents_step_counts_once():
    model = make_model()
    # In a process that has made one of these, the step of the parent runs the hooks too.
    torch.optim.AdamW(model.parameters())
    optimizer = AdamW(htmuon.param_groups(model), lr=0.01, weight_decay=0.1)
    monitor = SpectralMonitor(model, optimizer, every=1)
    steps(model, optimizer, 3)
    assert monitor.step == 3
    assert all(record["status"] == "ok" for record in picked(monitor.latest, kind="updates"))


def test_a_step_that_fails_does_not_count():
    model = make_model()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model), lr=0.01)
    monitor = SpectralMonitor(model, optimizer, every=1)

    def closure():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    steps(model, optimizer, 1)
    assert monitor.step == 1


def test_autocast_around_the_step_changes_no_record():
    found = []
    for enabled in (False, True):
        model = make_model()
        optimizer = OPTIMIZERS["SGD"](model)
        monitor = SpectralMonitor(model, optimizer, every=1)
        model(torch.randn(80, 56)).square().mean().backward()
        with torch.autocast("cpu", enabled=enabled):
            optimizer.step()
        found.append(repr(monitor.latest))
    assert found[0] == found[1]


def test_deterministic_mode_allows_it():
    torch.use_deterministic_algorithms(True)
    try:
        test_weights_momentum_and_updates_are_those_of_the_step()
    finally:
        torch.use_deterministic_algorithms(False)


def test_named_parameters_convolutions_and_stacks():
    model = make_model()
    model.register_module("conv", torch.nn.Conv2d(12, 12, 3))
    model.conv.experts = torch.nn.Parameter(torch.randn(2, 12, 14))
    optimizer = torch.optim.AdamW(model.parameters())
    monitor = SpectralMonitor(model, optimizer, every=1, names=["4.weight", "conv.*ts", "conv.weight"])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    shapes = {record["name"]: record["shape"] for record in picked(monitor.latest, kind="updates")}
    expected = {"4.weight": [40, 48], "conv.experts[0]": [12, 14], "conv.experts[1]": [12, 14]}
    assert shapes == {**expected, "conv.weight": [12, 108]}


def test_vectors_are_left_out_of_what_is_named():
    model = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.LayerNorm(12), torch.nn.Linear(12, 14))
    monitor = SpectralMonitor(model, torch.optim.AdamW(model.parameters()), names=["*.weight"])
    assert [matrix.name for matrix in monitor.matrices] == ["0.weight", "2.weight"]


def test_the_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="none of the 3 hidden matrices is among its parameters"):
        SpectralMonitor(make_model(), torch.optim.AdamW(make_model().parameters()))


def test_parameters_of_another_optimizer_are_seen_by_their_weights():
    model = make_model()
    optimizer = torch.optim.AdamW(model[1].parameters())
    monitor = SpectralMonitor(model, optimizer, every=1)
    steps(model, optimizer, 1)
    names = {kind: [r["name"] for r in picked(monitor.latest, kind=kind)] for kind in ("weights", "updates")}
    assert names == {"weights": ["0.weight", "1.weight", "3.weight"], "updates": ["1.weight"]}


class Writer:
    def __init__(self):
        self.scalars, self.closed = {}, False

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def close(self):
        self.closed = True


def test_tensorboard_gets_scalars_and_their_means(monkeypatch, tmp_path):
    made = []

    def summary_writer(folder, purge_step):
        made.append((folder, purge_step, Writer()))
        return made[-1][2]

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=summary_writer))
    model = make_model()
    optimizer = OPTIMIZERS["HTMuon"](model)
    theirs = Writer()
    with (
        SpectralMonitor(model, optimizer, every=2, tensorboard=theirs) as monitor,
        SpectralMonitor(model, optimizer, every=2, tensorboard=tmp_path / "board"),
    ):
        steps(model, optimizer, 2)
    [(folder, purge_step, ours)] = made
    assert (folder, purge_step) == (str(tmp_path / "board"), None)
    assert (ours.closed, theirs.closed) == (True, False)
    assert ours.scalars == theirs.scalars
    ranks = [record["stable_rank"] for record in picked(monitor.latest, kind="updates")]
    assert theirs.scalars["updates/stable_rank", 2] == pytest.approx(sum(ranks) / 3)
    assert theirs.scalars["updates/stable_rank/3.weight", 2] == ranks[2]
    assert all(map(math.isfinite, theirs.scalars.values()))
    assert ("weights/alpha_ks", 0) in theirs.scalars


def test_a_resumed_run_hides_what_the_board_has_of_later_steps(monkeypatch, tmp_path):
    given = []
    module = SimpleNamespace(SummaryWriter=lambda folder, purge_step: given.append(purge_step) or Writer())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    model = make_model()
    SpectralMonitor(model, OPTIMIZERS["AdamW"](model), tensorboard=tmp_path, step=40).close()
    assert given == [41]


def test_a_folder_for_tensorboard_needs_the_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = make_model()
    with pytest.raises(ImportError, match=r'pip install "htmuon\[tensorboard\]"'):
        SpectralMonitor(model, OPTIMIZERS["AdamW"](model), tensorboard=tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "every must be a whole number of at least 1"),
        ({"every": "often"}, 'or "auto"'),
        ({"every": True}, "every must be"),
        ({"cost": 0}, r"cost must be a number in \(0, 1\]"),
        ({"cost": "1%"}, "cost must be"),
        ({"step": -1}, "step must be the number of steps done"),
        ({"names": ["attention.*"]}, "names pattern .* matches no trainable parameter"),
        ({"names": "*.weight"}, "names must be a list of patterns"),
    ],
)
def test_bad_settings(settings, words):
    model = make_model()
    with pytest.raises(ValueError, match=words):
        SpectralMonitor(model, OPTIMIZERS["AdamW"](model), **settings)


def test_a_sharded_model():
    model = make_model()
    model[1].weight.placements = ("Shard(0)",)
    with pytest.raises(ValueError, match=r"'1\.weight' is sharded"):
        SpectralMonitor(model, OPTIMIZERS["AdamW"](model))


def test_a_complex_matrix():
    model = make_model()
    model[0].weight = torch.nn.Parameter(model[0].weight.detach().to(torch.complex64))
    with pytest.raises(TypeError, match=r"matrices must be real; '0\.weight' is torch\.complex64"):
        SpectralMonitor(model, OPTIMIZERS["AdamW"](model))


def test_a_model_without_hidden_matrices():
    model = torch.nn.Sequential(torch.nn.Embedding(4, 4), torch.nn.Linear(4, 1))
    with pytest.raises(ValueError, match="must have a hidden matrix"):
        SpectralMonitor(model, torch.optim.AdamW(model.parameters()))
