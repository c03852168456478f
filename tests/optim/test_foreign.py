"""A training that another Muon began and ours continues: the next steps are those that it would have taken."""

import copy
import importlib

import pytest
import torch
from peer_steps import JORDAN, MATRICES, ROUNDED, SAME, YOU, tensors
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import htmuon
from htmuon.optim.foreign import STATES

VECTOR = (12,)
SHAPES = (*MATRICES, VECTOR)
BEFORE, AFTER = 20, 5


@torch.no_grad()
def orthogonalized(direction, rows):
    """The steps of the coefficients on a matrix, in float32."""
    x = direction.mT if len(direction) > direction.shape[1] else direction
    x = x / x.norm()
    for a, b, c in rows:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if len(direction) > direction.shape[1] else x


class Keller(torch.optim.Optimizer):
    """A stand-in for `MuonWithAuxAdam`: its groups and state, its formulas written here, in float32."""

    def __init__(self, groups):
        super().__init__(groups, {"lr": 0.02, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state, lr = self.state[p], group["lr"]
                if group["use_muon"]:
                    beta = group["momentum"]
                    m = state.setdefault("momentum_buffer", torch.zeros_like(p))
                    m.mul_(beta).add_((1 - beta) * p.grad)
                    update = orthogonalized(beta * m + (1 - beta) * p.grad, JORDAN)
                    update = update * max(1, p.shape[0] / p.shape[1]) ** 0.5
                else:
                    (beta1, beta2), step = group["betas"], state.get("step", 0) + 1
                    m = state.setdefault("exp_avg", torch.zeros_like(p))
                    v = state.setdefault("exp_avg_sq", torch.zeros_like(p))
                    m.mul_(beta1).add_((1 - beta1) * p.grad)
                    v.mul_(beta2).add_((1 - beta2) * p.grad**2)
                    state["step"] = step
                    update = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + group["eps"])
                p.mul_(1 - lr * group["weight_decay"]).sub_(lr * update)


class Dion(torch.optim.Optimizer):
    """A stand-in for dion's Muon: its groups and state, its formulas written here, in float32."""

    def __init__(self, groups, **settings):
        usual = {"mu": 0.95, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.01, "epsilon": 1e-8, "nesterov": False}
        scale = {"algorithm": "muon", "step": 0, "flatten": False, "adjust_lr": "spectral_norm"}
        super().__init__(groups, {**usual, **scale, **settings})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                state, lr = self.state[p], group["lr"]
                m = state.setdefault("momentum", torch.zeros_like(p))
                if group["algorithm"] == "muon":
                    m.mul_(group["mu"]).add_(p.grad)
                    direction = group["mu"] * m + p.grad if group["nesterov"] else m
                    update = orthogonalized(direction, YOU) * (p.shape[0] / p.shape[1]) ** 0.5
                else:
                    beta1, beta2, step = group["beta1"], group["beta2"], group["step"]
                    v = state.setdefault("variance", torch.zeros_like(p))
                    m.mul_(beta1).add_((1 - beta1) * p.grad)
                    v.mul_(beta2).add_((1 - beta2) * p.grad**2)
                    update = m / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + group["epsilon"])
                p.mul_(1 - lr * group["weight_decay"]).sub_(lr * update)


def flagged(name):
    def make(parameters):
        groups = [
            {"params": parameters[:-1], "use_muon": True, "lr": 0.02, "weight_decay": 0.1},
            {"params": parameters[-1:], "use_muon": False, "lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.05},
        ]
        return getattr(importlib.import_module("pytorch_optimizer"), name)(groups)

    return make


def keller(parameters):
    matrices = sorted(parameters[:-1], key=lambda p: p.size(), reverse=True)  # as theirs does
    return Keller(
        [
            {"params": parameters[-1:], "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-10, "use_muon": False},
            {"params": matrices, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "use_muon": True},
        ]
    )


def dion(parameters):
    return Dion(
        [{"params": parameters[:-1]}, {"params": parameters[-1:], "algorithm": "adamw"}], lr=0.02, nesterov=True
    )


def timm(**settings):
    def make(parameters):
        return importlib.import_module("timm.optim").Muon(parameters, lr=0.02, weight_decay=0.1, **settings)

    return make


PEERS = [
    ("torch", lambda parameters: torch.optim.Muon(parameters[:-1], lr=0.02, adjust_lr_fn="match_rms_adamw"), SAME),
    ("pytorch_optimizer", flagged("Muon"), SAME),
    ("pytorch_optimizer.NorMuon", flagged("NorMuon"), SAME),
    # Its second moments are those of a matrix in bfloat16, rounded there before they are squared.
    ("pytorch_optimizer.AdaMuon", flagged("AdaMuon"), ROUNDED),
    ("timm", timm(fallback_lr_scale=0.1), SAME),
    # Its AdaMuon adds 1e-7 to a root mean square, ours 1e-8.
    ("timm", timm(algo="adamuon"), 1e-3),
    ("keller", keller, ROUNDED),
    ("dion", dion, ROUNDED),
]


def train(optimizer, parameters, steps):
    for seed in steps:
        for p, gradient in zip(parameters, tensors(1000 + seed, SHAPES), strict=True):
            p.grad = gradient[: p.shape[0]] / 100
        optimizer.step()


def ours_for(name, parameters, **settings):
    """Our optimizer with settings that are not theirs, over groups of our own; those of torch are matrices alone."""
    groups = [{"params": parameters[:-1], "use_muon": True}, {"params": parameters[-1:], "use_muon": False}]
    made = {"optimizer.NorMuon": htmuon.NorMuon, "optimizer.AdaMuon": htmuon.AdaMuon}
    return made.get(name[8:], htmuon.Muon)(groups[: 1 if name == "torch" else 2], lr=0.3, momentum=0.5, **settings)


def begun(name, make):
    parameters = [nn.Parameter(start / 10) for start in tensors(0, SHAPES)]
    theirs = make(parameters)
    train(theirs, parameters, range(BEFORE))
    return parameters, theirs


def order(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def moved_to(name, make, ours):
    """Parameters, those of a copy that ours continues, ours and theirs."""
    parameters, theirs = begun(name, make)
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    of = dict(zip(parameters, copies, strict=True))
    optimizer = ours(copies)
    saved = copy.deepcopy(theirs.state_dict())
    htmuon.optim.load_from(optimizer, name, saved, [of[p] for p in order(theirs)])
    return parameters, copies, optimizer, theirs


@pytest.mark.parametrize(("name", "make", "tolerance"), PEERS, ids=[f"{i}-{row[0]}" for i, row in enumerate(PEERS)])
@pytest.mark.filterwarnings("ignore")  # theirs
def test_the_next_steps_are_those_of_the_other(name, make, tolerance):
    def ours(copies):
        if name == "timm" and "adamuon" in str(make.__closure__[0].cell_contents):
            return htmuon.AdaMuon(
                [{"params": copies[:-1], "use_muon": True}, {"params": copies[-1:], "use_muon": False}]
            )
        return ours_for(name, copies)

    parameters, copies, optimizer, theirs = moved_to(name, make, ours)
    start = [p.detach().clone() for p in parameters]
    train(theirs, parameters, range(BEFORE, BEFORE + AFTER))
    train(optimizer, copies, range(BEFORE, BEFORE + AFTER))
    moving = len(order(theirs))
    for p, other, before in list(zip(parameters, copies, start, strict=True))[:moving]:
        assert (other - p).norm() < tolerance * (p - before).norm()


@pytest.mark.filterwarnings("ignore:momentum=0.5 has no effect with")  # it has one after loading
@pytest.mark.parametrize(
    "setting", [{"momentum_rule": "sum"}, {"momentum_rule": "two_averages"}, {"weight_update": "hyperball"}], ids=str
)
def test_slots_give_way_to_what_the_other_did(setting):
    parameters, theirs = begun("torch", lambda p: torch.optim.Muon(p[:-1], lr=0.02))
    copies = copy.deepcopy(parameters)
    optimizer = ours_for("torch", copies, **setting)
    [(name, value)] = setting.items()
    with pytest.warns(UserWarning, match=rf"{name}='\w+' in place of '{value}', which the optimizer was made with"):
        htmuon.optim.load_from(optimizer, "torch", theirs.state_dict())
    train(theirs, parameters, [BEFORE])
    train(optimizer, copies, [BEFORE])
    for p, q in zip(parameters, copies, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)  # the same steps, in stacks


def test_every_state_that_is_known_continues_here_or_is_that_of_gram_newton_schulz():
    assert {name for name, _, _ in PEERS} == STATES.keys() - {"gram-newton-schulz"}


@pytest.mark.filterwarnings("ignore")
def test_the_state_of_gram_newton_schulz_is_a_sum():
    module = pytest.importorskip("gram_newton_schulz")
    theirs = {
        "state": {0: {"momentum": torch.ones(4, 4)}},
        "param_groups": [{"params": [0], "lr": 0.1, "momentum": 0.9}],
    }
    optimizer = htmuon.Muon([nn.Parameter(torch.eye(4))])
    htmuon.optim.load_from(optimizer, "gram-newton-schulz", theirs, ns_coefficients=module.YOU_COEFFICIENTS)
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["momentum_buffer"], torch.full((4, 4), 0.1), rtol=1e-6, atol=0)
    assert optimizer.param_groups[0]["method"]["coefficients"] == tuple(YOU)


def test_a_power_keeps_its_method_and_takes_the_rest():
    _, _, optimizer, _ = moved_to(
        "torch", PEERS[0][1], lambda c: ours_for("torch", c, power=0.125, normalization="rms")
    )
    (group,) = optimizer.param_groups
    assert [group[key] for key in ("power", "method", "normalization")] == [0.125, "auto", "rms"]
    assert [group[key] for key in ("lr", "momentum", "adjust_lr_fn")] == [0.02, 0.95, "match_rms_adamw"]


def test_a_scheduler_goes_on_from_its_own_rate():
    pytest.importorskip("timm")

    def make(parameters):
        optimizer = importlib.import_module("timm.optim").Muon(parameters, lr=0.02, weight_decay=0.1)
        LambdaLR(optimizer, lambda step: 0.5)
        return optimizer

    _, _, optimizer, _ = moved_to("timm", make, lambda copies: ours_for("timm", copies))
    assert [(group["lr"], group["initial_lr"]) for group in optimizer.param_groups] == [(0.01, 0.02)] * 2


def test_parameters_are_matched_by_name_where_both_sides_have_names():
    named = [("one", nn.Parameter(torch.eye(4))), ("two", nn.Parameter(2 * torch.eye(4)))]
    theirs = torch.optim.Muon(named)
    for _, p in named:
        p.grad = p.detach().clone()
    theirs.step()
    optimizer = htmuon.Muon(reversed(named))
    htmuon.optim.load_from(optimizer, "torch", theirs.state_dict())
    for _, p in named:
        assert torch.equal(optimizer.state[p]["momentum_buffer"], theirs.state[p]["momentum_buffer"])


def one(**settings):
    return {"state": {}, "param_groups": [{"params": [0], "lr": 0.1, **settings}]}


@pytest.mark.parametrize(
    ("name", "saved", "message"),
    [
        ("heavyball", one(), "a peer whose state is known must be one of torch, keller"),
        ("heavybell", one(), "Did you mean 'heavyball'"),
        (
            "dion",
            one(algorithm="lion"),
            "algorithm of parameter 0 must be 'muon' or 'adamw'; .* 'lion'",
        ),
        ("keller", one(use_muon=False), r"it is with AdamW in keller and a matrix here. Say it by htmuon.param_groups"),
        (
            "keller",
            {"state": {0: {"exp_avg": torch.eye(4)}}, "param_groups": one(use_muon=True)["param_groups"]},
            "hav",
        ),
        ("torch", {"state": {}, "param_groups": [{"params": [0, 1]}]}, "must have held the 1 parameters of this one"),
        ("torch", {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"params": [0]}]}, "shape"),
        ("pytorch_optimizer.NorMuon", one(use_muon=True), r"NorMuon or its heavy-tailed form.*lack \['beta2'\]"),
        ("pytorch_optimizer", one(use_muon=True, weight_decouple=False, weight_decay=0.1), "Pass weight_decouple=True"),
    ],
)
def test_what_cannot_be_continued_is_refused_before_anything_changes(name, saved, message):
    optimizer = htmuon.Muon([nn.Parameter(torch.eye(4))])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        htmuon.optim.load_from(optimizer, name, saved)
    assert optimizer.state_dict() == before


def test_nadamw_is_refused():
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="NAdamW in timm where nesterov=True"):
        moved_to("timm", timm(nesterov=True), lambda copies: ours_for("timm", copies))


@pytest.mark.parametrize("make", [flagged("Muon"), timm(), dion], ids=["pytorch_optimizer", "timm", "dion"])
@pytest.mark.filterwarnings("ignore")
def test_the_state_of_another_is_not_loaded_as_one_of_ours(make):
    parameters, theirs = begun("", make)
    optimizer = ours_for("", parameters)
    with pytest.raises(ValueError, match=r"Call htmuon.optim.load_from\(optimizer, '(pytorch_optimizer|timm|dion)'"):
        optimizer.load_state_dict(theirs.state_dict())
