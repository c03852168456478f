"""Settings by what a matrix does in its block."""

import warnings

import pytest
import torch
from torch import nn

import htmuon
from htmuon.baselines import build_optimizer
from htmuon.routing.kinds import KINDS, kind_of, kinds_of

# Module names of transformers, timm, torchvision, torch and published repositories.
NAMES = {
    "model.layers.0.self_attn.q_proj.weight": "query",
    "bert.encoder.layer.3.attention.self.key.weight": "key",
    "layers.1.attention.wv.weight": "value",
    "blocks.7.attn.qkv.weight": "qkv",
    "transformer.h.0.attn.c_attn.weight": "qkv",
    "encoder.layers.0.self_attn.in_proj_weight": "qkv",
    "layers.0.self_attn.out_proj.weight": "output",
    "layers.0.mlp.gate_proj.parametrizations.weight.original": "gate",
    "layers.0.mlp.experts.3.up_proj.weight": "up",
    "model.layers.0.mlp.experts.gate_up_proj": "gate_up",
    "blocks.0.mlp.fc2.weight": "down",
    "layers.0.self_attn.v_proj.base_layer.weight": "value",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "down",
    "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": "gate",
    "layers.0.attention.wo.weight": "output",
    "transformer.h.0.mlp.c_proj.weight": "down",
    "transformer.h.0.attn.c_proj.weight": "output",
    "blocks.7.attn.proj.weight": "output",
    "bert.encoder.layer.3.attention.output.dense.weight": "output",
    "layers.0.self_attn.q_proj_weight": "query",
    "layers.0.mlp.down_proj.weight_orig": "down",
    "layers.0.self_attn.k_proj.weight_v": "key",
    "bert.encoder.layer.3.intermediate.dense.weight": "up",
    "bert.encoder.layer.3.output.dense.weight": "down",
    "transformer.h.2.mlp.fc_in.weight": "up",
    "stages.1.blocks.0.pwconv2.weight": "down",
    "encoder.layers.encoder_layer_0.mlp.0.weight": "up",
    "features.1.0.mlp.3.weight": "down",
    "mixer.mlp.1.weight": None,
    "bert.pooler.dense.weight": None,
    "patch_embed.proj.weight": None,
    "features.0.conv.weight": None,
    "weight": None,
}


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up_proj, self.down_proj = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x):
        x = x + self.o_proj(self.v_proj(x) * self.q_proj(x).sigmoid() + self.k_proj(x))
        return x + self.down_proj(self.up_proj(x).relu())


def blocks():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 8), Block(), Block(), nn.Linear(8, 9))


def settings_of(groups, key):
    """By parameter of the spectral side, None where its group does not say."""
    return {
        name.removeprefix("1.").removesuffix(".weight"): group.get(key)
        for group in groups
        if group["use_muon"]
        for name, _ in group["params"]
        if name.startswith("1.")
    }


def test_the_table_of_rates_is_refused_where_no_name_says_a_kind():
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    with pytest.raises(ValueError, match=r"needs matrices of the kinds query, .*rate_rule='alignment'"):
        htmuon.param_groups(model, lr_scale="kinds")


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_kinds_are_read_off_names(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (["blocks.0.mlp.fc1", "blocks.0.mlp.fc2"], ["up", "down"]),
        (["layers.0.fc1", "layers.0.fc2"], ["up", "down"]),  # OPT, BART
        (["layers.0.linear1", "layers.0.linear2"], ["up", "down"]),  # torch
        (["blocks.0.mlp.fc1_g", "blocks.0.mlp.fc2"], [None, "down"]),  # timm
        (["fc1", "fc2"], [None, None]),
        (["fc1", "fc2", "fc3"], [None, None, None]),
        (["module.fc1", "module.fc2"], [None, None]),  # of a wrapper
        (["net.fc1", "net.fc2", "net.fc3"], [None, None, None]),
        (["net.fc1", "other.fc2"], [None, None]),
        (["net.up_proj", "down_proj"], ["up", "down"]),
        (["block.wq", "block.wo", "other.wo"], ["query", "output", None]),
        (["layer.attention.out", "layer.out"], ["output", None]),
    ],
    ids=str,
)
def test_layers_with_a_number_are_a_feed_forward_part_in_pairs(layers, kinds):
    names = [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    assert [kinds_of(names)[f"{layer}.weight"] for layer in layers] == kinds


def test_a_classifier_has_no_feed_forward_part():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    assert set(htmuon.route(Classifier()).kinds.values()) == {None}
    with pytest.raises(ValueError, match=r"needs matrices of the kinds query, .*there are fc1.weight, fc2.weight"):
        htmuon.param_groups(Classifier(), lr_scale="kinds")
    # The last layer is a head and no matrix; it counts all the same.
    assert set(htmuon.route(nn.ModuleDict({"net": Classifier()})).kinds.values()) == {None}


def test_no_word_means_two_kinds():
    words = [word for names in KINDS.values() for word in names]
    assert len(words) == len(set(words))


def test_a_pattern_counts_before_a_kind_and_the_first_before_the_second():
    power = {"value": -0.4, "*.o_proj.*": 0.25, "1.v_*": 0.5, "*.v_proj.*": 0.75, "down": 0.125}
    groups = htmuon.param_groups(blocks(), power=power)
    assert settings_of(groups, "power") == {
        "q_proj": None,
        "k_proj": None,
        "v_proj": 0.5,
        "o_proj": 0.25,
        "up_proj": None,
        "down_proj": 0.125,
    }
    # Each matrix is in one group, and matrices of the same settings share one.
    names = [name for group in groups for name, _ in group["params"]]
    assert sorted(names) == sorted(name for name, _ in blocks().named_parameters())
    assert len([g for g in groups if g["use_muon"]]) == 5


@pytest.mark.parametrize("given", ["groups", "optimizer", "tensor"])
def test_a_factor_of_the_rate_is_applied_once(given):
    rate = {"groups": 0.02, "optimizer": None, "tensor": torch.tensor(0.02)}[given]
    model = blocks()
    groups = htmuon.param_groups(model, lr=rate, lr_scale={"query": 2, "down": 0.5})
    optimizer = htmuon.HTMuon(groups, lr=0.02, adamw_lr=0.004)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    rates = {"query": 0.04, "down": 0.01, None: 0.02}
    for halved in (1, 0.5):
        for group in optimizer.param_groups:
            kinds = {kind_of(name) for name in group["param_names"]} if group["use_muon"] else {"adamw"}
            expected = 0.004 if kinds == {"adamw"} else rates.get(next(iter(kinds)), rates[None])
            assert float(group["lr"]) == pytest.approx(halved * expected)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        scheduler.step()
    again = htmuon.HTMuon(htmuon.param_groups(blocks(), lr_scale={"query": 2, "down": 0.5}), lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    assert [float(g["lr"]) for g in again.param_groups] == [float(g["lr"]) for g in optimizer.param_groups]


def test_a_step_by_kind_is_that_of_an_optimizer_for_each():
    together, apart = blocks(), blocks()
    groups = htmuon.param_groups(together, lr_scale={"query": 2}, power={"value": 0.5})
    optimizers = [htmuon.HTMuon(groups, lr=0.02, adamw_lr=0.004)]
    for names, lr, power in (("q_proj", 0.04, 0.125), ("v_proj", 0.02, 0.5), ("", 0.02, 0.125)):
        own = [p for n, p in apart.named_parameters() if (names and names in n)]
        if own:
            optimizers.append(htmuon.HTMuon(own, lr=lr, power=power))
        else:
            rest = htmuon.param_groups(apart)
            for group in rest:
                group["params"] = [(n, p) for n, p in group["params"] if "q_proj" not in n and "v_proj" not in n]
            optimizers.append(htmuon.HTMuon(rest, lr=0.02, adamw_lr=0.004))
    for model in (together, apart):
        generator = torch.Generator().manual_seed(1)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()
    for p, q in zip(together.parameters(), apart.parameters(), strict=True):
        # Other stacks: products may sum in another order, in bfloat16, of updates of 0.04 at most.
        torch.testing.assert_close(p, q, rtol=0, atol=2e-3)


def test_specs_say_settings_by_kind():
    optimizer = build_optimizer(
        "muon:lr_scale.query+key=2,power.down=-0.25,normalization=rms",
        blocks(),
        lr=0.01,
        adamw_lr=0.003,
        weight_decay=0.1,
    )
    found = {
        name.removeprefix("1.").removesuffix(".weight"): (group["lr"], group["power"])
        for group in optimizer.param_groups
        if group["use_muon"]
        for name in group["param_names"]
        if name.startswith("1.")
    }
    assert found == {
        "q_proj": (0.02, 0.0),
        "k_proj": (0.02, 0.0),
        "v_proj": (0.01, 0.0),
        "o_proj": (0.01, 0.0),
        "up_proj": (0.01, 0.0),
        "down_proj": (0.01, -0.25),
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("muon:lr_scale.quarry=2", r"the kind of matrix must be one of.*quarry"),
        ("adamw:lr_scale.query=2", r"adamw has no settings by kind of matrix. Use one of .*htmuon"),
        ("muon:lr_scale.query=-1", r"muon:lr_scale.*lr_scale of 'query' must be a finite number at least 0; got -1"),
        ("muon:power.query=7", r"power of 'query' must be a finite number at least -1 and at most 1; got 7"),
        ("muon:power.query=abc", r"power of 'query' must be a number; got 'abc'"),
        (
            "muon:power.query=1,power.key+query=0",
            r"each kind of matrix must be given once; power of 'query' comes twice",
        ),
        (
            "muon:lr_scale.gate=2",
            r"lr_scale of 'gate' matches no matrix.*there are query, key, value, output, up, down",
        ),
    ],
)
def test_bad_specs_say_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(spec, blocks(), lr=0.01, adamw_lr=0.003, weight_decay=0.1)


def test_bad_rules_say_what_is_wrong():
    with pytest.raises(TypeError, match=r"power must be a mapping from kinds \(query, .*got 0.5"):
        htmuon.param_groups(blocks(), power=0.5)
    with pytest.raises(
        ValueError, match=r"lr_scale must be 'kinds', or a mapping .*got 'kind'. Did you mean 'kinds'\?"
    ):
        htmuon.param_groups(blocks(), lr_scale="kind")
    with pytest.raises(TypeError, match=r"lr_scale of 'query' must be a number; got 'fast'"):
        htmuon.param_groups(blocks(), lr_scale={"query": "fast"})
    with pytest.raises(ValueError, match=r"power pattern '\*q_prj\*' matches no matrix of the spectral side"):
        htmuon.param_groups(blocks(), power={"*q_prj*": 0.5})
    with pytest.raises(ValueError, match=r"power pattern 'quary' matches no matrix.*the kind 'query'"):
        htmuon.param_groups(blocks(), power={"quary": 0.5})
    with pytest.raises(ValueError, match=r"power pattern '\*x\*' matches no matrix.*there are no matrices"):
        htmuon.param_groups(nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 9)), power={"*x*": 0.5})
    with pytest.raises(ValueError, match=r"lr_scale must name some matrix; none of gate, qkv is one of query"):
        ignored(htmuon.param_groups, blocks(), lr_scale={"gate": 0.5, "qkv": 2})


def test_a_rule_that_is_idle_beside_others_is_a_warning():
    with pytest.warns(UserWarning, match="lr_scale of 'gate' matches no matrix of the spectral side"):
        htmuon.param_groups(blocks(), lr_scale={"gate": 0.5, "query": 2})


def test_a_table_of_factors_takes_what_there_is():
    groups = htmuon.param_groups(blocks(), lr=0.1, lr_scale="kinds")
    rates = settings_of(groups, "lr")
    assert rates == pytest.approx(
        {"q_proj": 0.2, "k_proj": 0.2, "v_proj": 0.035, "o_proj": 0.035, "up_proj": 0.1, "down_proj": 0.035}
    )
    optimizer = build_optimizer("muon:lr_scale=kinds", blocks(), lr=0.1, adamw_lr=0.003, weight_decay=0.1)
    assert sorted({group["lr"] for group in optimizer.param_groups if group["use_muon"]}) == pytest.approx(
        [0.035, 0.1, 0.2]
    )
    for spec in ("muon:lr_scale=fast", "muon:lr_scale=kinds,lr_scale.query=2"):
        with pytest.raises(ValueError, match="lr_scale must be kinds, or be given by kind"):
            build_optimizer(spec, blocks(), lr=0.1, adamw_lr=0.003, weight_decay=0.1)


def test_a_part_of_the_table_is_a_warning_that_says_what_is_there_and_what_not():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(8, 24), nn.Linear(8, 8)
            self.mlp = nn.ModuleDict({"up_proj": nn.Linear(8, 16), "down_proj": nn.Linear(16, 8)})

    model = nn.Sequential(nn.Embedding(9, 8), Fused(), nn.Linear(8, 9))
    said = (
        r"there are qkv, up, down, and no query, key, value, output. .*as '1.c_attn.weight' does. Nobody has measured"
    )
    with pytest.warns(UserWarning, match=said) as warned:
        groups = htmuon.param_groups(model, lr=0.1, lr_scale="kinds")
    assert [warning.filename for warning in warned] == [__file__]
    assert settings_of(groups, "lr")["mlp.down_proj"] == pytest.approx(0.035)


def ignored(function, *arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **settings)


def test_a_power_of_its_own_is_not_that_of_a_schedule():
    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=4)
    model = blocks()
    optimizer = htmuon.HTMuon(htmuon.param_groups(model, power={"value": -0.25}), power_schedule=schedule)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    powers = {group["power"] for group in optimizer.param_groups if group["use_muon"]}
    assert powers == {-0.25, 0.375}


def test_the_key_of_timm_is_left_to_timm():
    # Its schedulers multiply by it at every step.
    optimizer = htmuon.HTMuon([{"params": [nn.Parameter(torch.eye(3))], "lr_scale": 0.5}], lr=0.02)
    assert optimizer.param_groups[0]["lr"] == 0.02
    groups = htmuon.param_groups(blocks(), lr_scale={"query": 0.5})
    assert not any("lr_scale" in group for group in htmuon.HTMuon(groups).param_groups)
