import math
import sys

import pytest
import torch

import htmuon
from htmuon._device import optimizer_state_bytes
from htmuon.baselines import BASELINES, build_optimizer, optimizer_info, optimizer_names, register
from htmuon.baselines.baseline import Baseline
from htmuon.cli.listing import listing
from htmuon.compare.labels import label, update_rule
from htmuon.training.train import train

RATES = {"lr": 0.01, "adamw_lr": 0.003, "weight_decay": 0.1}
PACKAGED = ("soap", "lion", "ademamix", "mars")
PEERS = [name for name in optimizer_names() if name not in ("adamw", *htmuon.OPTIMIZERS)]
STEPS = 12


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 7), torch.nn.Linear(7, 3))


def batches(steps=STEPS):
    return torch.randn(steps, 9, 5, generator=torch.Generator().manual_seed(1))


def steps_on(model, optimizer, inputs):
    for batch in inputs:
        (model(batch).square().mean() + model(batch).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()


def same(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


@pytest.mark.parametrize("name", PEERS)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, with_optimizer, recorder, name):
    config = with_optimizer(name, lr=0.1 if name == "sgd" else 0.003)
    whole = train(config, tmp_path / "whole")

    def interrupt(step):
        if step == 8:  # after the checkpoint of step 6
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", recorder(interrupt))
    observer = recorder()
    result = train(config, tmp_path / "broken", observer)
    assert observer.first_steps == [6]
    for file in ("model.safetensors", "spectra.safetensors"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert result.final_loss == whole.final_loss < math.log(280)
    assert whole.optimizer_state_bytes > 0


def packaged(kind, groups, **settings):
    return getattr(pytest.importorskip("pytorch_optimizer"), kind)(groups, lr=0.01, weight_decay=0.1, **settings)


# What a user of the package would write; each must give the same bits as the spec.
REFERENCES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=0.1),
    "soap": lambda groups: packaged("SOAP", groups, betas=(0.95, 0.95)),
    "lion:decay_scale=1": lambda groups: packaged("Lion", groups),
    "ademamix": lambda groups: packaged("AdEMAMix", groups, weight_decouple=True, t_alpha_beta3=STEPS),
    "ademamix:warmup=0": lambda groups: packaged("AdEMAMix", groups, weight_decouple=True),
    "mars": lambda groups: packaged("MARS", groups, lr_1d=0.01, weight_decay_1d=0.0),
}


@pytest.mark.parametrize("spec", REFERENCES)
def test_a_baseline_is_the_optimizer_of_its_package(spec):
    ours, theirs = make_model(), make_model()
    optimizer = build_optimizer(spec, ours, **RATES, steps=STEPS)
    reference = REFERENCES[spec](htmuon.param_groups(theirs))
    steps_on(ours, optimizer, batches())
    steps_on(theirs, reference, batches())
    assert same(ours, theirs)
    assert not same(ours, make_model())


def test_torch_muon_is_two_optimizers_of_torch():
    ours, theirs = make_model(), make_model()
    optimizer = build_optimizer("torch_muon", ours, **RATES)
    hidden, others, vectors = htmuon.param_groups(theirs)
    muon = torch.optim.Muon([hidden], lr=0.01, weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [{**others, "weight_decay": 0.1}, vectors], lr=0.003, betas=(0.9, 0.95), eps=1e-10, fused=True
    )
    steps_on(ours, optimizer, batches())
    for batch in batches():
        (theirs(batch).square().mean() + theirs(batch).mean()).backward()
        for part in (muon, adamw):
            part.step()
            part.zero_grad()
    assert same(ours, theirs)
    assert [(group["use_muon"], group["lr"]) for group in optimizer.param_groups] == [
        (True, 0.01),
        (False, 0.003),
        (False, 0.003),
    ]


def test_torch_muon_refuses_convolutions():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'1.weight' has the shape \(4, 4, 3, 3\).*muon:method=newton_schulz"):
        build_optimizer("torch_muon", model, **RATES)


@pytest.mark.parametrize("name", PEERS)
def test_vectors_are_not_decayed(name):
    decays = {
        (len(group["params"]), group["use_muon"]): group["weight_decay"]
        for group in build_optimizer(name, make_model(), **RATES).param_groups
    }
    decay = 1.0 if name == "lion" else 0.1
    assert decays == {(2, True): decay, (1, False): decay, (3, False): 0.0} or decays == {
        (1, True): decay,
        (2, False): decay,
        (3, False): 0.0,
    }


@pytest.mark.parametrize("name", PEERS)
def test_state_dict_and_schedulers_of_torch(name):
    whole, first, second = make_model(), make_model(), make_model()
    scheduled = []
    for model in (whole, first, second):
        optimizer = build_optimizer(name, model, **RATES, steps=STEPS)
        scheduled.append((optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))))

    def steps(model, optimizer, scheduler, inputs):
        for batch in inputs:
            steps_on(model, optimizer, [batch])
            scheduler.step()

    steps(whole, *scheduled[0], batches())
    steps(first, *scheduled[1], batches()[:5])
    second.load_state_dict(first.state_dict())
    for stored, part in zip(scheduled[1], scheduled[2], strict=True):
        part.load_state_dict(stored.state_dict())
    steps(second, *scheduled[2], batches()[5:])
    assert same(whole, second)
    assert scheduled[2][0].param_groups[0]["lr"] == pytest.approx(0.01 / (1 + STEPS))


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_step_that_is_not_finite_is_left_out(name, bad):
    model, reference = make_model(), make_model()
    optimizer, expected = (build_optimizer(name, m, **RATES) for m in (model, reference))
    first, second = batches(2)
    for poisoned in (True, False):
        model(first).sum().backward()
        if poisoned:
            model[2].weight.grad[1, 1] = bad
            optimizer.step()
            optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()
    reference(first).sum().backward()
    expected.step()
    expected.zero_grad()
    for m, o in ((model, optimizer), (reference, expected)):
        steps_on(m, o, [second])
    assert same(model, reference)
    restored = build_optimizer(name, make_model(), **RATES)
    restored.load_state_dict(optimizer.state_dict())
    assert (int(restored.skipped_steps), int(expected.skipped_steps)) == (1, 0)


def test_a_closure_is_called():
    model = make_model()
    optimizer = build_optimizer("sgd", model, **RATES)

    def closure():
        optimizer.zero_grad()
        loss = model(batches(1)[0]).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) == model_loss(make_model())
    assert not same(model, make_model())


def model_loss(model):
    return model(batches(1)[0]).square().mean()


def test_soap_leaves_out_the_vocabulary():
    layers = torch.nn.Embedding(50, 4), torch.nn.Linear(4, 8), torch.nn.Linear(8, 50)
    model = torch.nn.Sequential(*layers)
    optimizer = build_optimizer("soap", model, **RATES)
    steps_on(model, optimizer, torch.randint(50, (3, 9)))
    sides = [[len(m) for m in optimizer.state[layer.weight]["GG"]] for layer in layers]
    assert sides == [[0, 4], [8, 4], [0, 8]]
    moments = 2 * sum(p.numel() for p in model.parameters())
    assert optimizer_state_bytes(optimizer) == 4 * (moments + 2 * (4 * 4 + 8 * 8 + 4 * 4 + 8 * 8))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("lino", "Did you mean 'lion'"),
        ("lion:beta3=0.9", "a setting of lion must be one of beta1, beta2, decay_scale"),
        ("lion:beta1=2", "optimizer 'lion:beta1=2'.*beta1"),
        ("lion:decay_scale=-1", "decay_scale must be a finite number at least 0"),
        ("ademamix:warmup=half", "warmup must be a number of steps"),
        ("mars:mars_type=adam", "mars_type"),
        ("sgd:momentum=-1", "momentum"),
        ("torch_muon:adjust_lr_fn=other", "other"),
        ("soap:precondition_frequency=0", "precondition_frequency"),
    ],
)
def test_bad_specs(spec, words):
    with pytest.raises(ValueError, match=words):
        build_optimizer(spec, make_model(), **RATES)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_missing_package_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=r'pytorch_optimizer.*pip install "htmuon\[baselines\]"'):
        build_optimizer(name, make_model(), **RATES)


def test_torchs_optimizers_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    for name in ("sgd", "torch_muon"):
        assert type(build_optimizer(name, make_model(), **RATES)) is Baseline


def test_names_for_readers():
    text = listing()
    for name in PEERS:
        assert label(name) != name
        assert update_rule(name) in text
        assert optimizer_info(name).settings
    assert update_rule("lion:beta1=0.95").endswith("Here with beta1 = 0.95.")
    assert optimizer_info("lion").first_lr == optimizer_info("adamw").first_lr / 10


def test_a_new_variant_needs_no_row(monkeypatch):
    class Half(htmuon.NorMuon):
        """Half: NorMuon at the power one half."""

        def __init__(self, params, lr=0.02, *, power=0.5, **settings):
            super().__init__(params, lr, power=power, **settings)

    monkeypatch.setitem(htmuon.OPTIMIZERS._parts, "half", Half)
    info = optimizer_info("half")
    assert (info.label, info.rule, info.family, info.is_muon) == ("Half", Half.__doc__, "half", False)
    assert info.first_lr is None
    assert info.separate_rates({})
    assert "  half" in listing()
    assert type(build_optimizer("half", make_model(), **RATES)) is Half


def test_a_new_baseline_is_one_row(monkeypatch):
    monkeypatch.setattr(BASELINES, "_parts", dict(BASELINES.items()))

    @register("plain", label="Plain SGD", first_lr=0.1)
    def plain(run, *, dampening=0.0):
        """The gradient itself."""
        return torch.optim.SGD(run.groups, lr=run.lr, weight_decay=run.weight_decay, dampening=dampening)

    assert (label("plain:dampening=0.5"), update_rule("plain")) == ("Plain SGD (dampening=0.5)", "The gradient itself.")
    assert build_optimizer("plain:dampening=0.5", make_model(), **RATES).param_groups[0]["dampening"] == 0.5
    assert "  plain       The gradient itself." in listing()


def test_families_are_read_off_the_slots():
    families = {name: optimizer_info(name).family for name in htmuon.OPTIMIZERS}
    assert families == {
        "htmuon": "htmuon",
        "muon": "htmuon",
        "normuon": "htnormuon",
        "htnormuon": "htnormuon",
        "adamuon": "htadamuon",
        "htadamuon": "htadamuon",
    }
    assert [name for name in optimizer_names() if optimizer_info(name).is_muon] == ["muon", "torch_muon"]
