"""Groups that are added in the middle of a training, as trainers do when they unfreeze: sorted, named, or refused."""

import copy
import io

import pytest
import torch
from torch import nn

import htmuon

NAMES = list(htmuon.OPTIMIZERS)


class Classifier(nn.Module):
    """A backbone that is frozen at first, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Conv2d(6, 8, 3, bias=False), nn.Flatten()
        )
        self.middle = nn.Linear(32, 8)
        self.classifier = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, images):
        return self.classifier(self.middle(self.backbone(images)))


def head_groups(model, **settings):
    """The groups of what is trained first."""
    for p in (*model.backbone.parameters(), *model.middle.parameters()):
        p.requires_grad_(False)
    return htmuon.param_groups(model, **settings)


def descend(model, optimizer, steps=2):
    for step in range(steps):
        images = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()


def unfreeze(*modules):
    found = [p for module in modules for p in module.parameters()]
    for p in found:
        p.requires_grad_(True)
    return found


def shapes(group):
    return [tuple(p.shape) for p in group["params"]]


def matrices_and_others(optimizer, before):
    """The groups that were added, by their side; at most one of each."""
    added = optimizer.param_groups[before:]
    sides = {group["use_muon"]: group for group in added}
    assert len(sides) == len(added)
    return sides.get(True), sides.get(False)


def names(optimizer):
    return [name for group in optimizer.param_groups for name in group.get("param_names", [])]


def snapshot(optimizer):
    return [(id(group), list(map(id, group["params"])), {**group, "params": None}) for group in optimizer.param_groups]


def state_through_a_file(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", [list, tuple, iter, lambda found: (p for p in found)])
def test_bare_tensors_are_divided_into_matrices_and_others(name, form):
    model = Classifier()
    optimizer = htmuon.OPTIMIZERS[name](head_groups(model), lr=0.02, adamw_lr=0.001, weight_decay=0.1)
    descend(model, optimizer)
    before = len(optimizer.param_groups)
    found = unfreeze(model.backbone, model.middle)
    optimizer.add_param_group({"params": form(found), "lr": 0.01})
    matrices, others = matrices_and_others(optimizer, before)
    assert shapes(matrices) == [(6, 2, 3, 3), (8, 6, 3, 3), (8, 32)]
    assert shapes(others) == [(6,), (6,), (6,), (8,)]
    assert (matrices["lr"], matrices["weight_decay"]) == (0.01, 0.1)
    # The optimizer's own two rates are 20 to 1, and so are these; in floating point to a rounding.
    assert others["lr"] == pytest.approx(0.0005, rel=1e-12)
    assert others["weight_decay"] == 0.0
    assert len(names(optimizer)) == len(set(names(optimizer))) == len(list(model.parameters()))
    weights = [p.detach().clone() for p in model.parameters()]
    descend(model, optimizer)
    assert not any(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_rates_that_are_not_given_are_those_of_each_side():
    model = Classifier()
    optimizer = htmuon.HTMuon(head_groups(model), lr=0.03, adamw_lr=0.002, adamw_eps=1e-9)
    before = len(optimizer.param_groups)
    optimizer.add_param_group({"params": unfreeze(model.backbone)})
    matrices, others = matrices_and_others(optimizer, before)
    assert (matrices["lr"], others["lr"]) == (0.03, 0.002)
    assert (matrices["eps"], others["eps"]) == (1e-7, 1e-9)


@pytest.mark.parametrize("shape", [(3, 4), (3,), ()], ids=str)
def test_a_single_tensor_is_a_group(shape):
    model = Classifier()
    optimizer = htmuon.HTMuon(head_groups(model))
    optimizer.add_param_group({"params": nn.Parameter(torch.ones(shape))})
    assert optimizer.param_groups[-1]["use_muon"] is (len(shape) == 2)
    assert shapes(optimizer.param_groups[-1]) == [shape]
    assert len(optimizer.param_groups) == 4


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (0, 4), (4, 1, 1, 1)], ids=str)
def test_what_has_two_dims_but_is_no_matrix_goes_to_the_others(shape):
    optimizer = htmuon.HTMuon(head_groups(Classifier()))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(shape))]})
    [group] = optimizer.param_groups[3:]
    assert group["use_muon"] is False


def test_a_learning_rate_that_is_a_tensor_is_one_for_each_of_the_two():
    optimizer = htmuon.HTMuon(head_groups(Classifier()), lr=torch.tensor(0.02), adamw_lr=torch.tensor(0.01))
    rate = torch.tensor(0.1)
    weight, gain = nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [weight, gain], "lr": rate, "initial_lr": 0.2})
    matrices, others = matrices_and_others(optimizer, 3)
    assert float(others["lr"]) == pytest.approx(0.05)
    assert (matrices["initial_lr"], others["initial_lr"]) == (0.2, pytest.approx(0.1))
    matrices["lr"].mul_(0)
    assert float(rate) == pytest.approx(0.1)
    assert float(others["lr"]) == pytest.approx(0.05)


def test_a_learning_rate_of_zero_has_no_proportion():
    optimizer = htmuon.HTMuon(head_groups(Classifier()), lr=0.0, adamw_lr=0.001)
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))], "lr": 0.5})
    matrices, others = matrices_and_others(optimizer, 3)
    assert (matrices["lr"], others["lr"]) == (0.5, 0.5)


@pytest.mark.parametrize("use_muon", [True, False])
def test_what_the_group_says_of_itself_stays(use_muon):
    model = Classifier()
    optimizer = htmuon.HTMuon(head_groups(model))
    weight = nn.Parameter(torch.eye(3))
    optimizer.add_param_group({"params": [weight], "use_muon": use_muon, "lr": 0.5, "weight_decay": 0.25})
    [group] = optimizer.param_groups[3:]
    assert (group["use_muon"], group["lr"], group["weight_decay"]) == (use_muon, 0.5, 0.25)
    # Also where it says it of a vector: that is an error of whoever said it.
    with pytest.raises(ValueError, match="needs parameters of 2 or more dimensions"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "use_muon": True})


def test_a_named_vector_that_does_not_say_use_muon_is_still_refused():
    optimizer = htmuon.HTMuon(head_groups(Classifier()))
    with pytest.raises(ValueError, match=r"'gain' of shape \(3,\)"):
        optimizer.add_param_group(
            {"params": [("w", nn.Parameter(torch.eye(3))), ("gain", nn.Parameter(torch.ones(3)))]}
        )


def test_a_list_of_vectors_in_the_constructor_is_still_refused():
    with pytest.raises(ValueError, match=r"htmuon\.param_groups\(model\)"):
        htmuon.HTMuon([{"params": [nn.Parameter(torch.eye(3))]}, {"params": [nn.Parameter(torch.ones(3))]}])


@pytest.mark.parametrize("named", [True, False])
def test_bad_groups_leave_everything_as_it_was(named):
    model = Classifier()
    optimizer = htmuon.NorMuon(head_groups(model, named=named))
    descend(model, optimizer)
    before = snapshot(optimizer)
    weight, gain = (lambda: nn.Parameter(torch.eye(3))), (lambda: nn.Parameter(torch.ones(3)))
    known = optimizer.param_groups[-1]["params"][0]
    table = optimizer.param_groups[0]["params"][0]
    expanded = nn.Parameter(torch.ones(1).expand(3))
    cases = [
        ({"params": [weight(), gain()], "lr": -1.0}, ValueError, "^lr must be a finite number"),
        ({"params": [weight(), gain()], "lr": "fast"}, TypeError, "^lr must be a number; got 'fast'"),
        ({"params": [weight(), gain()], "lr": None}, TypeError, "^lr must be a number; got None"),
        ({"params": [gain()], "lr": [0.1]}, TypeError, "^lr must be a number"),
        ({"params": [weight(), gain()], "lr": torch.ones(2)}, TypeError, "^lr must be a number or"),
        ({"params": [weight(), gain()], "betas": None}, TypeError, "^betas must be a pair"),
        ({"params": [weight(), gain()], "power": 7}, ValueError, "7"),
        ({"params": [weight()], "split": 2}, ValueError, "split must be"),
        ({"params": [weight()], "matrix_view": "conv"}, ValueError, "3 or more dimensions"),
        # In these one of the two groups is good: that of the matrices, and then that of the others, which comes first.
        ({"params": [weight(), known]}, ValueError, "more than one parameter group"),
        ({"params": [weight(), expanded]}, ValueError, "must not share memory"),
        ({"params": [weight(), nn.Parameter(torch.ones(3, dtype=torch.complex64))]}, TypeError, "real floating point"),
        ({"params": [weight(), nn.Parameter(torch.ones(3, device="meta"))]}, ValueError, "must have values"),
        ({"params": [weight(), gain() * 2]}, ValueError, "non-leaf"),
        ({"params": [gain(), table]}, ValueError, "more than one parameter group"),
        ({"params": [gain(), nn.Parameter(torch.ones(3, 1).expand(3, 3))]}, ValueError, "must not share memory"),
        ({"params": [gain(), nn.Parameter(torch.ones(3, 3, dtype=torch.cfloat))]}, TypeError, "real floating point"),
        ({"params": [gain(), nn.Parameter(torch.ones(3, 3, device="meta"))]}, ValueError, "must have values"),
        ({"params": [gain(), weight()], "matrix_view": "conv"}, ValueError, "3 or more dimensions"),
        ({"params": [gain(), weight()], "split": 2}, ValueError, "split must be"),
        ({"params": [gain(), weight() * 2]}, ValueError, "non-leaf"),
        ({"params": [weight(), nn.UninitializedParameter()]}, ValueError, "lazy module"),
        ({"params": {weight(), gain()}}, TypeError, "ordered collections"),
        ({"params": [weight(), 3.0]}, TypeError, "can only optimize Tensors"),
        ({"params": 3.0}, TypeError, "not iterable"),
    ]
    for group, error, words in cases:
        given = {**group}
        with pytest.raises(error, match=words):
            optimizer.add_param_group(group)
        assert snapshot(optimizer) == before, group
        assert group.keys() == given.keys()
        assert all(group[key] is given[key] for key in group)
    descend(model, optimizer)
    optimizer.add_param_group({"params": [weight(), gain()]})
    assert len(optimizer.param_groups) == 5


def test_names_are_given_where_the_others_have_some():
    optimizer = htmuon.HTMuon(head_groups(Classifier()))
    for _ in range(2):
        optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]})
    optimizer.add_param_group({"params": [("own", nn.Parameter(torch.eye(3)))]})
    assert len(names(optimizer)) == len(set(names(optimizer))) == 6 + 4 + 1
    assert names(optimizer)[-1] == "own"


def test_names_that_are_given_are_nobody_elses():
    # A ParameterList of that name, and a group that was taken out again.
    optimizer = htmuon.HTMuon([("group1.0", nn.Parameter(torch.eye(3)))])
    for _ in range(2):
        optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]})
    del optimizer.param_groups[1]
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3))]})
    assert len(names(optimizer)) == len(set(names(optimizer))) == 5


def test_names_are_dropped_where_the_others_have_none():
    model = Classifier()
    optimizer = htmuon.HTMuon(head_groups(model, named=False))
    found = unfreeze(model.middle)
    optimizer.add_param_group({"params": [("middle.weight", found[0])]})
    optimizer.add_param_group({"params": model.middle.named_parameters(), "use_muon": False} | {"params": [found[1]]})
    assert names(optimizer) == []
    assert [g["use_muon"] for g in optimizer.param_groups[3:]] == [True, False]
    descend(model, optimizer)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_added_is_saved_and_goes_on(name, named):
    def build():
        model = Classifier()
        optimizer = htmuon.OPTIMIZERS[name](head_groups(model, named=named), power_schedule=schedule)
        descend(model, optimizer)
        optimizer.add_param_group({"params": unfreeze(model.backbone, model.middle), "lr": 0.01})
        return model, optimizer

    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=10)
    (model, optimizer), (other, fresh) = build(), build()
    descend(model, optimizer)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(state_through_a_file(optimizer))
    descend(model, optimizer)
    descend(other, fresh)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    # What came later has counted its own steps, and its power is where it then was.
    counts = [group["steps_taken"].item() for group in fresh.param_groups]
    assert counts == [6, 6, 6, 4, 4]


def test_what_was_added_trains_as_if_it_had_been_there():
    model, other = Classifier(), Classifier()
    optimizer = htmuon.HTMuon(head_groups(model), lr=0.02, adamw_lr=0.001)
    optimizer.add_param_group({"params": unfreeze(model.backbone, model.middle), "lr": 0.01})
    head = head_groups(other)
    found = unfreeze(other.backbone, other.middle)
    groups = [
        {"params": [(str(i), p) for i, p in enumerate(found) if p.ndim >= 2], "use_muon": True, "lr": 0.01},
        {
            "params": [(str(i), p) for i, p in enumerate(found) if p.ndim < 2],
            "use_muon": False,
            "lr": 0.01 * (0.001 / 0.02),
            "weight_decay": 0.0,
        },
    ]
    at_once = htmuon.HTMuon([*head, *groups], lr=0.02, adamw_lr=0.001)
    descend(model, optimizer, 3)
    descend(other, at_once, 3)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: optimizer])
def test_copies_take_groups_too(copied):
    optimizer = copied(htmuon.HTMuon(head_groups(Classifier())))
    optimizer.add_param_group({"params": [nn.Parameter(torch.eye(3)), nn.Parameter(torch.ones(3))]})
    assert len(optimizer.param_groups) == 5


class BackboneFinetuning:
    """The flow of Lightning's callback of that name, as its `BaseFinetuning` states it."""

    def __init__(self, unfreeze_at, multiplier=2.0, denominator=10.0):
        self.unfreeze_at, self.multiplier, self.denominator = unfreeze_at, multiplier, denominator
        self.rate = None

    @staticmethod
    def filter_params(module):
        """Of each leaf module its trainable parameters, one by one."""
        for part in module.modules():
            yield from (p for p in part.parameters(recurse=False) if p.requires_grad)

    @staticmethod
    def filter_on_optimizer(optimizer, params):
        known = [id(p) for group in optimizer.param_groups for p in group["params"]]
        return [p for p in params if id(p) not in known]

    def start_of_epoch(self, epoch, model, optimizer):
        current = optimizer.param_groups[0]["lr"]
        if epoch == self.unfreeze_at:
            for p in model.backbone.parameters():
                p.requires_grad_(True)
            params = self.filter_on_optimizer(optimizer, self.filter_params(model.backbone))
            self.rate = current / self.denominator
            optimizer.add_param_group({"params": params, "lr": self.rate})
        elif epoch > self.unfreeze_at:
            self.rate = min(self.multiplier * self.rate, current)
            optimizer.param_groups[-1]["lr"] = self.rate  # the callback knows of one group


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_backbone_finetuning_of_lightning_unfreezes_and_warms_up_the_matrices(name, named):
    model = Classifier()
    optimizer = htmuon.OPTIMIZERS[name](head_groups(model, named=named), lr=0.02, adamw_lr=0.001)
    callback = BackboneFinetuning(unfreeze_at=2)
    frozen = [p.detach().clone() for p in model.backbone.parameters()]
    rates = []
    for epoch in range(5):
        callback.start_of_epoch(epoch, model, optimizer)
        descend(model, optimizer)
        moved = [not torch.equal(p, w) for p, w in zip(model.backbone.parameters(), frozen, strict=True)]
        assert all(moved) if epoch >= 2 else not any(moved)
        if epoch >= 2:
            matrices, others = matrices_and_others(optimizer, 3)
            rates.append((matrices["lr"], others["lr"]))
    # The last group is that of the matrices, so their rate is the one that the callback raises.
    assert [rate for rate, _ in rates] == pytest.approx([0.002, 0.004, 0.008])
    assert [rate for _, rate in rates] == pytest.approx([0.0001] * 3)


def test_a_scheduler_that_was_there_before_goes_on():
    # torch's schedulers go through the groups they know.
    model = Classifier()
    optimizer = htmuon.HTMuon(head_groups(model), lr=0.02, adamw_lr=0.001)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    descend(model, optimizer)
    scheduler.step()
    optimizer.add_param_group({"params": unfreeze(model.middle), "lr": 0.01, "initial_lr": 0.02})
    for _ in range(2):
        descend(model, optimizer)
        scheduler.step()
    by_side = {group["use_muon"]: group["lr"] for group in optimizer.param_groups[3:]}
    assert by_side == {True: pytest.approx(0.0025), False: pytest.approx(0.0025 / 20)}
