"""`htmuon.like`: three steps beside each other Muon, for the arguments of its row; and what has no match."""

import importlib
import importlib.resources
import inspect
import re

import pytest
import torch
from peer_steps import ALL, CASES, difference, moved
from torch import nn

import htmuon
from htmuon.optim.translation import PEERS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore")  # theirs
def test_three_steps_are_those_of_the_peer(case):
    assert difference(case) < case.tolerance, f"the row {case.row!r} of htmuon.like is no longer true"


def test_every_row_is_compared():
    assert {case.row for case in CASES} == set(PEERS)


# Arguments of theirs that no row needs: of other parameters, of speed, of several ranks, of how things are stored.
BESIDE = {
    "timm": {"adamw_lr", "capturable", "verbose"},
    "pytorch_optimizer": {"foreach", "kwargs"},
    "pytorch_optimizer.NorMuon": {"foreach", "kwargs", "eps"},
    "pytorch_optimizer.AdaMuon": {"foreach", "kwargs"},
    "gram-newton-schulz": {
        "ns_epsilon",
        "ns_use_kernels",
        "ns_max_batch_size",
        "gram_newton_schulz_num_restarts",
        "gram_newton_schulz_restart_iterations",
        "scalar_optimizer",
    },
    "heavyball": {
        "eps",
        "multi_tensor",
        "storage_dtype",
        "mars_gamma",
        "gradient_clipping",
        "update_clipping",
        "palm",
        "beta2_scale",
        "compile_step",
        "promote",
        "ecc",
        "param_ecc",
        "orig_shapes",
        "kwargs",
    },
    "optimuon": {
        "ns_eps",
        "ns_dtype",
        "gns_restart_after",
        "momentum_dtype",
        "foreach",
        "batched_ns",
        "mars_gamma",
        "distributed",
        "ns_split_fn",
        "ns_recombine_fn",
    },
    "optax": {
        "adam_b1",
        "adam_b2",
        "adam_eps_root",
        "adam_learning_rate",
        "adam_weight_decay",
        "eps",
        "mu_dtype",
        "muon_weight_dimension_numbers",
        "weight_decay_mask",
    },
    "keras": {
        "adam_beta_1",
        "adam_beta_2",
        "adam_lr_ratio",
        "adam_weight_decay",
        "ema_momentum",
        "ema_overwrite_frequency",
        "epsilon",
        "exclude_embeddings",
        "exclude_layers",
        "gradient_accumulation_steps",
        "kwargs",
        "loss_scale_factor",
        "name",
    },
    "emerging-optimizers": {"fp32_matmul_prec", "use_syrk"},
    "muonium": {"amsgrad", "is_adamw", "fused_adam", "foreach_adam", "foreach", "batch_size"},
}


@pytest.mark.parametrize("row", sorted({c.row for c in CASES if c.make.module is not None}))
@pytest.mark.filterwarnings("ignore")
def test_the_arguments_and_defaults_of_a_row_are_those_of_the_peer(row):
    make = next(case.make for case in CASES if case.row == row and case.make.module is not None)
    module = pytest.importorskip(make.module, exc_type=ImportError)
    theirs = dict(inspect.signature(getattr(module, make.name)).parameters)
    theirs.pop("params", None)
    ours = PEERS[row].arguments
    assert theirs.keys() - ours.keys() == BESIDE.get(row, set()), f"the arguments of {row} are others than those read"
    for name, parameter in ours.items():
        assert name in theirs, f"{row} no longer has the argument {name}"
        assert parameter.default == theirs[name].default, f"{row} has another default of {name}"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timmm", {}, "peer must be one of torch, .*got 'timmm'. Did you mean 'timm'"),
        (
            "torch",
            {"momentun": 0.9},
            r"must be one of lr, weight_decay, .*version 2.14.1\); got momentun. Leave it out",
        ),
        ("optax", {"nesterov": False}, "must be given learning_rate, which has no default there. Pass it"),
        ("optax", {"lr": 0.1}, "nesterov=True has no match here: .*by a tenth.* Pass nesterov=False"),
        (
            "heavyball",
            {},
            "heavyball_momentum=False with nesterov=True .* Pass heavyball_momentum=True or nesterov=False",
        ),
        ("heavyball", {"nesterov": False, "mars": True}, "mars=True has no match here.* Pass mars=False"),
        ("timm", {"conv_mode": "batched"}, r"one matrix \[out, in \* kernel\]. Pass conv_mode='flatten'"),
        ("timm", {"ns_coefficients": "cubic"}, "ns_coefficients='cubic' .* Pass one of .'original', 'quintic'"),
        ("timm", {"algo": "adamuon", "adjust_lr_fn": "rms_to_rms"}, "Pass adjust_lr_fn='match_rms_adamw'"),
        ("timm", {"ns_steps": 0}, "0 steps has no match"),
        ("torch", {"ns_coefficients": ()}, r"ns_coefficients=\(\) has no match"),
        ("pytorch_optimizer", {"weight_decouple": False, "weight_decay": 0.1}, "Pass weight_decouple=True"),
        (
            "muonium",
            {},
            "its decay has not been compared with weight_update='cautious' here. Pass use_cautious_wd=False",
        ),
        ("muonium", {"use_cautious_wd": False}, r"Pass wd=0, and give each shape a group .* max\(1, out / in\)\^0.5"),
        ("optimuon", {}, "normuon=True has no match here: .*columns.* Pass normuon=False"),
        ("optimuon", {"normuon": False, "ns_steps": 6}, "6 steps has no match here: there are 5 rows"),
        ("mlx", {"lr": 0.1}, "goes through the steps. Pass weight_decay=0"),
        ("omnimuon", {}, "Pass nesterov=False"),
        ("emerging-optimizers", {"scale_mode": "none"}, "Pass one of .'shape_scaling'"),
        ("emerging-optimizers", {"coefficient_type": "cans"}, "amplify rounding.* Pass coefficient_type='quintic'"),
        ("emerging-optimizers", {"extra_scale_factor": 0.0}, "would not descend"),
        ("keras", {"clipnorm": 1.0}, "Pass clipnorm=None"),
        ("gram-newton-schulz", {"adjust_lr": max}, "adjust_lr=<built-in function max> has no match"),
    ],
)
def test_what_has_no_match_is_refused_with_the_reason_and_the_remedy(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        htmuon.like(name, **arguments)


def test_the_learning_rate_may_be_called_lr():
    assert htmuon.like("keras", lr=0.5) == htmuon.like("keras", learning_rate=0.5)


def test_a_power_takes_a_method_for_it_and_keeps_the_size_of_the_update():
    polar = moved(htmuon.like("timm", lr=0.02).make, ALL)
    turned = moved(lambda parameters: htmuon.like("timm", lr=0.02).make(parameters, power=0.125), ALL)
    for a, b in zip(polar, turned, strict=True):
        # Three steps in directions that are not the same; the five quintic steps leave singular values of 0.8 to 1.2.
        assert 0.7 < float(a.norm() / b.norm()) < 1.4
        assert not torch.allclose(a, b, rtol=0.1)


def test_settings_survive_a_checkpoint(tmp_path):
    weight = nn.Parameter(torch.eye(4))
    optimizer = htmuon.like("timm").make([weight])
    weight.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = htmuon.Muon([weight])
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.param_groups[0]["method"] == optimizer.param_groups[0]["method"] == htmuon.like("timm")["method"]


def test_no_peer_is_imported():
    room = importlib.resources.files("htmuon") / "optim"
    source = "".join((room / name).read_text() for name in ("peers.py", "more_peers.py"))
    assert set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)) == {
        "collections",
        "typing",
        "torch",
        "htmuon",
    }
