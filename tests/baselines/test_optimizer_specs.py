import itertools

import pytest
import torch

import htmuon
from htmuon.baselines import build_optimizer, optimizer_info, parse_spec
from htmuon.baselines.adamw import AdamW
from htmuon.training.run_config import OptimizerConfig

RATES = {"lr": 0.02, "adamw_lr": 0.003, "weight_decay": 0.1}


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6), torch.nn.Linear(6, 3))


def step(model, optimizer, inputs):
    model(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_parse_spec():
    assert parse_spec("htmuon") == ("htmuon", {})
    assert parse_spec("a: x=1 , y=1e-3,z=None,u=FALSE,v=rms") == (
        "a",
        {"x": 1, "y": 1e-3, "z": None, "u": False, "v": "rms"},
    )


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("htmon", "Did you mean 'htmuon'"),
        ("", "optimizer must be one of adamw, htmuon"),
        ("htmuon:", "name:key=value"),
        ("htmuon:power", "got 'power' in 'htmuon:power'"),
        ("htmuon:power=", "name:key=value"),
        ("htmuon:power=0.1,power=0.2", "'power' comes twice"),
        ("htmuon:pwer=0.1", "Did you mean 'power'"),
        ("htmuon:lr=0.1", "a setting of htmuon must be one of .*; got 'lr'"),
        ("htmuon:power=abc", "optimizer 'htmuon:power=abc': .*power"),
        ("htmuon:power=7", "optimizer 'htmuon:power=7': .*power"),
        ("htmuon:normalization=rsm", "Did you mean 'rms'"),
        ("htmuon:schedule=intervall,every=5", "Did you mean 'interval'"),
        ("htmuon:schedule=interval", "every"),
        ("htmuon:every=5", "got 'every'"),
        ("adamw:momentum=0.9", "a setting of adamw must be one of beta1, beta2, eps"),
        ("adamw:beta1=2", "optimizer 'adamw:beta1=2'"),
    ],
)
def test_bad_specs(spec, words):
    with pytest.raises(ValueError, match=words):
        build_optimizer(spec, make_model(), **RATES)


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_every_optimizer_can_be_built_with_its_settings(name):
    spec = f"{name}:power=0.25,momentum=0.9,nesterov=false,method=eigh,adamw_eps=1e-7"
    optimizer = build_optimizer(spec, make_model(), **RATES)
    assert type(optimizer) is htmuon.OPTIMIZERS[name]
    hidden, other, vectors = optimizer.param_groups
    assert (hidden["lr"], hidden["weight_decay"], hidden["power"], hidden["method"]) == (0.02, 0.1, 0.25, "eigh")
    assert (hidden["momentum"], hidden["nesterov"]) == (0.9, False)
    assert (other["lr"], other["weight_decay"], other["eps"]) == (0.003, 0.1, 1e-7)
    assert (vectors["lr"], vectors["weight_decay"]) == (0.003, 0.0)


def test_settings_of_a_variant_are_its_own_and_its_parents():
    assert {"power", "beta2", "momentum", "normalization"} <= optimizer_info("normuon").settings.keys()
    assert optimizer_info("muon").settings["power"] == 0.0
    assert optimizer_info("adamw").settings == {"beta1": 0.9, "beta2": 0.95, "eps": 1e-10, "two_rates": False}


def test_power_schedule_from_a_spec():
    build = [build_optimizer(s, make_model(), **RATES) for s in ("htmuon", "htmuon:schedule=interval,every=5")]
    schedules = [optimizer.param_groups[0]["power_schedule"] for optimizer in build]
    assert schedules == [None, {"name": "interval", "power": 0.125, "every": 5}]


def test_powers_by_a_rule_that_looks_at_spectra():
    model, draw = make_model(), torch.Generator().manual_seed(0)
    spec = "htnormuon:power=0.5,power_by=nuclear_rank,every=2,highest=0.75,averaging=0,method=eigh"
    optimizer = build_optimizer(spec, model, matrices="all", **RATES)
    hidden = optimizer.param_groups[0]
    assert hidden["power_rule"] == {"name": "held", "lowest": 0.0, "highest": 0.75}
    for number in range(4):
        step(model, optimizer, torch.randn(7, 5, generator=draw))
        powers = [optimizer.state[p]["power"].item() for p in hidden["params"]]
        assert (powers == [0.5] * 3) == (number == 0)
    assert all(0 < power < 0.75 for power in powers)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("muon:power_by=alpa", "rule must be one of alpha, nuclear_rank, schatten; got 'alpa'. Did you mean 'alpha'"),
        ("muon:power_by=alpha,every=0", "every must be a whole number of at least 1; got 0"),
        ("muon:power_by=alpha,hevy=1", "Did you mean 'heavy'"),
        ("muon:power_by=alpha,power_rule=alignment", "power_by must have no power_rule beside it, .* got 'alignment'"),
        ("muon:power_by=alpha,schedule=interval,every=5", "power_rule must be None beside a power_schedule"),
        ("muon:power_by=alpha,spectral_map=knee", "power_rule must be None with a spectral_map that takes one power"),
        ("adamw:power_by=alpha", "a setting of adamw must be one of .*; got 'power_by'"),
    ],
)
def test_bad_specs_of_such_rules(spec, words):
    with pytest.raises(ValueError, match=words):
        build_optimizer(spec, make_model(), **RATES)


def test_several_ranks_see_no_activations_of_each_other():
    group = object()  # of ranks: it is refused before it is asked anything
    with pytest.raises(ValueError, match=r"NuclearRank.* needs a single process, which sees all activations"):
        build_optimizer("muon:power_by=nuclear_rank", make_model(), process_group=group, **RATES)


def test_adamw_is_torchs_adamw_on_the_same_groups():
    ours, theirs = make_model(), make_model()
    optimizer = build_optimizer("adamw", ours, **RATES)
    groups = [{**group, "weight_decay": group.get("weight_decay", 0.1)} for group in htmuon.param_groups(theirs)]
    reference = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), eps=1e-10)
    for _ in range(5):
        inputs = torch.randn(7, 5)
        step(ours, optimizer, inputs)
        step(theirs, reference, inputs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        # Five steps of a fused and an unfused form of the same float32 arithmetic.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_adamw_with_a_rate_of_the_other_parameters():
    def rates(spec):
        groups = build_optimizer(spec, make_model(), **RATES).param_groups
        return {(group["use_muon"], group["lr"]) for group in groups}

    assert rates("adamw:two_rates=true") == rates("htmuon") == {(True, RATES["lr"]), (False, RATES["adamw_lr"])}
    assert rates("adamw") == {(True, RATES["lr"]), (False, RATES["lr"])}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("parameter", [0, 2])
def test_adamw_leaves_out_a_step_that_is_not_finite(bad, parameter):
    model, reference = make_model(), make_model()
    optimizer, expected = (build_optimizer("adamw", m, **RATES) for m in (model, reference))
    first, second = torch.randn(2, 7, 5)
    step(model, optimizer, first)
    model(second).sum().backward()
    next(itertools.islice(model.parameters(), parameter, None)).grad.view(-1)[1] = bad
    optimizer.step()
    optimizer.zero_grad()
    step(model, optimizer, second)
    for inputs in (first, second):
        step(reference, expected, inputs)
    assert [int(optimizer.skipped_steps), int(expected.skipped_steps)] == [1, 0]
    # To the bit: the masked step changed neither weights nor moments nor their step count.
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_adamw_counts_skipped_steps_across_a_state_dict():
    model = make_model()
    optimizer = AdamW(model.parameters(), 0.01, weight_decay=0.0)
    model[0].weight.grad = torch.full_like(model[0].weight, float("nan"))
    optimizer.step()
    restored = AdamW(make_model().parameters(), 0.01, weight_decay=0.0)
    restored.load_state_dict(optimizer.state_dict())
    assert int(restored.skipped_steps) == 1


@pytest.mark.parametrize(
    ("spec", "matrices", "spectral"),
    [
        ("htmuon", "hidden", ["1.weight"]),
        ("htmuon", "all", ["0.weight", "1.weight", "2.weight"]),
        ("htmuon:matrices=hidden", "all", ["1.weight"]),
        ("torch_muon:matrices=all", "hidden", ["0.weight", "1.weight", "2.weight"]),
    ],
)
def test_which_parameters_are_matrices_is_a_setting_of_the_run_and_of_the_spec(spec, matrices, spectral):
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
    optimizer = build_optimizer(spec, model, **RATES, matrices=matrices)
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrix_groups = [group for group in optimizer.param_groups if group.get("use_muon", group.get("ns_steps"))]
    assert [names[parameter] for group in matrix_groups for parameter in group["params"]] == spectral


def test_an_unknown_choice_of_matrices_is_refused():
    with pytest.raises(ValueError, match="matrices must be one of"):
        build_optimizer("muon:matrices=most", make_model(), **RATES)
    with pytest.raises(ValueError, match="matrices must be one of"):
        OptimizerConfig(matrices="most")


@pytest.mark.parametrize(
    ("spec", "key", "stored"),
    [
        ("htmuon:method=polynomial,levels=8", "method", {"name": "polynomial", "levels": 8, "precision": None}),
        ("htmuon:method=polynomial", "method", "polynomial"),
        ("muon:method=newton_schulz", "method", "newton_schulz"),
        ("normuon:spectral_map=knee,tau=0.02,power=0.25", "spectral_map", {"name": "knee", "tau": 0.02}),
    ],
)
def test_the_settings_of_a_method_or_a_map_are_written_behind_it(spec, key, stored):
    assert build_optimizer(spec, make_model(), **RATES).param_groups[0][key] == stored


@pytest.mark.parametrize("settings", ["levels=8", "method=eigh,levels=8", "method=polynomial,tau=0.02"])
def test_a_setting_of_another_method_is_refused(settings):
    with pytest.raises(ValueError, match=r"a setting of htmuon\S* must be one of"):
        build_optimizer(f"htmuon:{settings}", make_model(), **RATES)


def test_a_misspelt_method_is_named_and_not_its_setting():
    with pytest.raises(ValueError, match="Did you mean 'polynomial'"):
        build_optimizer("htmuon:method=polynomail,levels=8", make_model(), **RATES)


def test_maps_without_a_free_exponent_have_settings_too():
    group = build_optimizer("htmuon:spectral_map=soft_clip,tau=0.02,power=1", make_model(), **RATES).param_groups[0]
    assert (group["spectral_map"]["name"], group["spectral_map"]["tau"], group["power"]) == ("soft_clip", 0.02, 1)


@pytest.mark.parametrize(("split", "stored"), [("auto", 3), ("none", None)])
def test_fused_weights_are_taken_apart_where_a_spec_asks_for_it(split, stored):
    model = torch.nn.ModuleDict(
        {"attention": torch.nn.MultiheadAttention(8, 2, bias=False), "head": torch.nn.Linear(8, 4)}
    )
    groups = build_optimizer(f"htmuon:split={split}", model, **RATES).param_groups
    fused = model["attention"].in_proj_weight
    assert [group["split"] for group in groups if any(p is fused for p in group["params"])] == [stored]
    with pytest.raises(ValueError, match="split must be one of auto, none"):
        build_optimizer("htmuon:split=3", model, **RATES)
