"""State from elsewhere: of other optimizers, orders, names and number types; it is loaded, or refused as a whole."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from problems import assert_same, network, train, twins
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import htmuon


def snapshot(model, optimizer):
    """All that a load could change, copied."""
    state = {index: optimizer.state.get(p, {}) for index, p in enumerate(model.parameters())}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    members = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    return copy.deepcopy([[p.detach() for p in model.parameters()], state, groups, members])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def assert_refused(model, optimizer, saved, words):
    before, given = snapshot(model, optimizer), copy.deepcopy(saved)
    with pytest.raises(ValueError, match=words) as caught:
        optimizer.load_state_dict(saved)
    assert "\n" not in str(caught.value)
    assert same(before, snapshot(model, optimizer))
    assert same(given, saved)


def trained_pair(name="htmuon", steps=3, **settings):
    """A model that was trained and its twin with the same weights and no state."""
    (model, optimizer), (other, fresh) = twins(name, **settings)
    train(model, optimizer, steps)
    other.load_state_dict(model.state_dict())
    return model, optimizer, other, fresh


def assert_go_on_alike(model, optimizer, other, fresh, first=3):
    train(model, optimizer, 3, first=first)
    train(other, fresh, 3, first=first)
    assert_same(model, other)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Of AdamW's step


@pytest.mark.parametrize(
    "form",
    [
        lambda step: int(step),
        lambda step: float(step),
        lambda step: step.to(torch.int64),
        lambda step: step.to(torch.float64).view(1),
        lambda step: step.view(1, 1).to(torch.bfloat16),  # 3 is a bfloat16
        lambda step: np.float32(step),
        lambda step: np.array([int(step)]),
    ],
    ids=["int", "float", "int64", "float64 [1]", "bfloat16 [1, 1]", "np.float32", "np.array"],
)
def test_the_step_of_adamw_may_be_any_number(form):
    model, optimizer, other, fresh = trained_pair()
    saved = copy.deepcopy(optimizer.state_dict())
    for entry in saved["state"].values():
        if "step" in entry:
            entry["step"] = form(entry["step"])
    fresh.load_state_dict(saved)
    steps = [entry["step"] for entry in fresh.state.values() if "step" in entry]
    assert {(step.dtype, step.shape) for step in steps} == {(torch.float32, torch.Size([]))}
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_step_that_is_shared_by_all_parameters_is_counted_apart():
    # Older torch saved a number; a tool may put one tensor in place of all.
    model, optimizer, other, fresh = trained_pair()
    saved = copy.deepcopy(optimizer.state_dict())
    one = torch.tensor(3.0)
    for entry in saved["state"].values():
        if "step" in entry:
            entry["step"] = one
    fresh.load_state_dict(saved)
    assert_go_on_alike(model, optimizer, other, fresh)
    assert one == 3


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda entry: entry.pop("step"), "must have step, exp_avg, exp_avg_sq.*; step is missing"),
        (lambda entry: entry.pop("exp_avg"), "; exp_avg is missing"),
        (lambda entry: entry.pop("exp_avg_sq"), "; exp_avg_sq is missing"),
        (lambda entry: [entry.pop("exp_avg"), entry.pop("exp_avg_sq")], "; exp_avg, exp_avg_sq is missing"),
        (lambda entry: entry.update(step=None), "the step of parameter .* must be a number"),
        (lambda entry: entry.update(step="three"), "the step of parameter .* must be a number"),
        (lambda entry: entry.update(step=torch.ones(2)), "the step of parameter .* must be a number"),
        (lambda entry: entry.update(exp_avg=entry["exp_avg"][:1]), "exp_avg of parameter .* must have the shape"),
        (lambda entry: entry.update(exp_avg_sq=0.0), "exp_avg_sq of parameter .* must be a tensor"),
    ],
)
def test_a_state_of_adamw_that_lacks_something_is_refused_and_nothing_changes(spoil, words):
    _, optimizer, other, fresh = trained_pair()
    train(other, fresh, 2, first=10)
    saved = copy.deepcopy(optimizer.state_dict())
    last = [entry for entry in saved["state"].values() if "step" in entry][-1]
    spoil(last)  # of the last parameter: all others have been looked at by then
    saved["param_groups"][0]["lr"] = 0.5
    assert_refused(other, fresh, saved, words)


def test_a_parameter_without_a_state_begins_anew():
    model, optimizer, other, fresh = trained_pair()
    saved = copy.deepcopy(optimizer.state_dict())
    index = len(optimizer.param_groups[0]["params"])  # of the first parameter that takes AdamW
    del saved["state"][index]
    del optimizer.state[optimizer.param_groups[1]["params"][0]]
    fresh.load_state_dict(saved)
    assert_go_on_alike(model, optimizer, other, fresh)


@pytest.mark.parametrize(("of", "into"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float32)])
def test_averages_saved_in_another_dtype_are_cast_to_the_one_that_adamw_needs(of, into):
    gain = nn.Parameter(torch.ones(5, dtype=into))
    optimizer = htmuon.HTMuon([{"params": [gain], "use_muon": False}], adamw_lr=0.1)
    averages = torch.arange(1.0, 6.0).to(of) / 8  # exact in every dtype
    entry = {"step": torch.tensor(1.0), "exp_avg": averages, "exp_avg_sq": averages.clone()}
    saved = {"state": {0: entry}, "param_groups": optimizer.state_dict()["param_groups"]}
    optimizer.load_state_dict(saved)
    assert {optimizer.state[gain][key].dtype for key in ("exp_avg", "exp_avg_sq")} == {into}
    twin = nn.Parameter(torch.ones(5, dtype=into))
    adamw = torch.optim.AdamW([twin], lr=0.1, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1, fused=True)
    # torch, too, casts what it loads to the dtype of the parameter.
    adamw.load_state_dict({"state": {0: entry}, "param_groups": adamw.state_dict()["param_groups"]})
    gain.grad = twin.grad = torch.ones(5, dtype=into)
    optimizer.step()
    adamw.step()
    assert torch.equal(gain, twin)


def test_a_state_of_torch_adamw_continues_as_torch_does():
    def start():
        torch.manual_seed(3)
        return [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))]

    def go(parameters, optimizer, steps):
        for step in steps:
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            optimizer.step()

    theirs, ours = start(), start()
    settings = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.05}
    adamw = torch.optim.AdamW(theirs, **settings, fused=True)
    go(theirs, adamw, range(4))
    for mine, their in zip(ours, theirs, strict=True):
        mine.data.copy_(their)
    optimizer = htmuon.HTMuon([{"params": ours, "use_muon": False}])
    optimizer.load_state_dict(through_a_file(adamw.state_dict()))
    assert {key: optimizer.param_groups[0][key] for key in settings} == settings
    go(theirs, adamw, range(4, 8))
    go(ours, optimizer, range(4, 8))
    for mine, their in zip(ours, theirs, strict=True):
        # The same kernel of torch, with the same numbers.
        assert torch.equal(mine, their)


# Hooks


def reversed_names(model):
    """The groups of a model with the parameters of each in the opposite order."""
    return [{**group, "params": group["params"][::-1]} for group in htmuon.param_groups(model)]


def by_names(optimizer, state_dict):
    """The hook of torch's documentation: a new dict, with the saved numbers in the order of the names here."""
    groups = []
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        index = dict(zip(saved["param_names"], saved["params"], strict=True))
        names = group["param_names"]
        groups.append({**saved, "params": [index[name] for name in names], "param_names": list(names)})
    return {"state": state_dict["state"], "param_groups": groups}


def test_a_hook_that_returns_a_new_dict_is_honoured_and_leaves_nothing_to_warn_of():
    model, optimizer, other, _ = trained_pair()
    fresh = htmuon.HTMuon(reversed_names(other))
    calls = []
    fresh.register_load_state_dict_pre_hook(lambda *given: [calls.append(given), by_names(*given)][1])
    fresh.load_state_dict(optimizer.state_dict())  # warnings are errors
    [(who, _)] = calls
    assert who is fresh
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_hook_that_changes_the_dict_in_place_is_honoured():
    model, optimizer, other, fresh = trained_pair()

    def rename(_, state_dict):
        state_dict["state"] = state_dict.pop("moments")
        for group in state_dict["param_groups"]:
            group["lr"] = 0.5

    fresh.register_load_state_dict_pre_hook(rename)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["moments"] = saved.pop("state")
    fresh.load_state_dict(saved)
    assert [group["lr"] for group in fresh.param_groups] == [0.5] * 3
    assert "moments" in saved  # the hook gets a shallow copy, as torch's does
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_hook_after_loading_may_change_the_state():
    model, optimizer, other, fresh = trained_pair()

    def halve(of):
        for entry in of.state.values():
            entry.update({key: entry[key] / 2 for key in ("momentum_buffer", "exp_avg") if key in entry})

    fresh.register_load_state_dict_post_hook(halve)
    fresh.load_state_dict(optimizer.state_dict())
    halve(optimizer)
    assert_go_on_alike(model, optimizer, other, fresh)


def test_hooks_are_called_once_in_the_order_of_torch():
    orders = []
    for make in (lambda p: torch.optim.SGD(p, lr=0.1), htmuon.HTMuon):
        optimizer = make([nn.Parameter(torch.eye(2))])
        calls = []
        for name in ("first", "second", "zeroth"):
            pre, post = (lambda *_, c=calls, s=f"{when} {name}": c.append(s) for when in ("pre", "post"))
            optimizer.register_load_state_dict_pre_hook(pre, prepend=name == "zeroth")
            optimizer.register_load_state_dict_post_hook(post, prepend=name == "zeroth")
        optimizer.load_state_dict(optimizer.state_dict())
        orders.append(calls)
    assert orders[0] == orders[1]
    assert len(orders[1]) == len(set(orders[1])) == 6


def test_hooks_after_loading_are_not_called_when_it_fails():
    _, optimizer, other, fresh = trained_pair()
    fresh.register_load_state_dict_post_hook(lambda _: pytest.fail("called"))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][-1]["lr"] = -1.0
    assert_refused(other, fresh, saved, r"lr must be a finite number at least 0")


def test_hooks_of_state_dict_see_what_they_save():
    optimizer = htmuon.HTMuon([nn.Parameter(torch.eye(2))])
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "more": 1})
    assert optimizer.state_dict()["more"] == 1


# Names


def test_names_in_another_order_are_matched_with_a_warning():
    model, optimizer, other, _ = trained_pair()
    fresh = htmuon.HTMuon(reversed_names(other))
    with pytest.warns(UserWarning, match="stand in another order.*matched by name") as caught:
        fresh.load_state_dict(optimizer.state_dict())
    assert [w.filename for w in caught] == [__file__]
    assert fresh.param_groups[0]["param_names"] == optimizer.param_groups[0]["param_names"][::-1]
    assert_go_on_alike(model, optimizer, other, fresh)


def test_groups_in_another_order_are_matched_with_a_warning():
    model, optimizer, other, _ = trained_pair(adamw_lr=0.01)
    fresh = htmuon.HTMuon(htmuon.param_groups(other)[::-1])
    with pytest.warns(UserWarning, match="stand in another order"):
        fresh.load_state_dict(optimizer.state_dict())
    assert [group["use_muon"] for group in fresh.param_groups] == [False, False, True]
    assert [group["lr"] for group in fresh.param_groups] == [0.01, 0.01, 0.02]
    assert_go_on_alike(model, optimizer, other, fresh)


def test_names_of_wrappers_load_without_a_word():
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        for saved_wrapped in (True, False):
            model, optimizer, other, _ = trained_pair()
            sides = [htmuon.param_groups(m) for m in (model, other)]
            for group in sides[0 if saved_wrapped else 1]:
                group["params"] = [(prefix + name, p) for name, p in group["params"]]
            source, fresh = (htmuon.HTMuon(groups) for groups in sides)
            source.load_state_dict(optimizer.state_dict())
            fresh.load_state_dict(source.state_dict())  # warnings are errors
            assert_go_on_alike(model, source, other, fresh)


def test_a_compiled_model_loads_what_the_model_has_saved():
    model, optimizer, other, _ = trained_pair()
    fresh = htmuon.HTMuon([{**g, "params": [*g["params"]]} for g in htmuon.param_groups(torch.compile(other))])
    fresh.load_state_dict(optimizer.state_dict())
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_wrapper_and_another_order_together_are_matched():
    model, optimizer, other, _ = trained_pair()
    groups = reversed_names(other)
    for group in groups:
        group["params"] = [(f"module.{name}", p) for name, p in group["params"]]
    fresh = htmuon.HTMuon(groups)
    with pytest.warns(UserWarning, match="stand in another order"):
        fresh.load_state_dict(optimizer.state_dict())
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_model_with_a_layer_called_module_is_matched_by_its_full_names():
    names = ["weight", "module.weight", "module.module.weight"]
    gradients = [torch.randn(3, 3) for _ in names]

    def build(order):
        parameters = [nn.Parameter(torch.eye(3)) for _ in names]
        return parameters, htmuon.HTMuon([(names[i], parameters[i]) for i in order])

    (first, one), (second, two) = build([0, 1, 2]), build([2, 0, 1])
    for p, gradient in zip(first, gradients, strict=True):
        p.grad = gradient
    one.step()
    with pytest.warns(UserWarning, match="stand in another order"):
        two.load_state_dict(one.state_dict())
    for p, q in zip(first, second, strict=True):
        assert torch.equal(one.state[p]["momentum_buffer"], two.state[q]["momentum_buffer"])


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ({"1.weight": "encoder.weight"}, r"it lacks '1\.weight' and it has 'encoder\.weight'\."),
        ({"6.bias": "6.shift"}, r"it lacks '6\.bias' and it has '6\.shift'\."),
        ({name: f"x{name}" for name in ("1.bias", "6.bias", "6.weight", "8.bias")}, "and 1 more and it has"),
    ],
)
def test_names_that_disagree_are_refused_and_nothing_changes(rename, words):
    _, optimizer, other, fresh = trained_pair()
    train(other, fresh, 1, first=9)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group["param_names"] = [rename.get(name, name) for name in group["param_names"]]
    assert_refused(other, fresh, saved, words)


def test_parameters_that_have_moved_to_another_group_are_refused():
    _, optimizer, other, _ = trained_pair()
    fresh = htmuon.HTMuon(htmuon.param_groups(other, adamw=["3.weight"]))
    train(other, fresh, 1, first=9)
    assert_refused(other, fresh, optimizer.state_dict(), "the names are the same, their groups are not")


def test_another_number_of_groups_or_parameters_is_refused():
    _, optimizer, other, fresh = trained_pair()
    for change in (lambda groups: groups.pop(), lambda groups: groups[0]["params"].pop()):
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            del group["param_names"]
        change(saved["param_groups"])
        assert_refused(other, fresh, saved, "must have as many parameters in each group")


@pytest.mark.parametrize("broken", [None, ["1.weight"], ["1.weight"] * 3])
def test_names_that_are_not_one_for_each_parameter_are_no_names(broken):
    model, optimizer, other, fresh = trained_pair()
    own = fresh.param_groups[0]["param_names"]
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["param_names"] = broken
    saved["param_groups"][0]["params"].pop()
    assert_refused(other, fresh, saved, "must have as many parameters in each group")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["param_names"] = broken
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["param_names"] == own
    assert_go_on_alike(model, optimizer, other, fresh)


def test_names_with_too_few_or_too_many_parameters_are_refused():
    _, optimizer, other, fresh = trained_pair()
    for change in (lambda numbers: numbers.pop(), lambda numbers: numbers.append(99)):
        saved = copy.deepcopy(optimizer.state_dict())
        change(saved["param_groups"][0]["params"])
        assert_refused(other, fresh, saved, "must have as many parameters in each group")


@pytest.mark.parametrize("named", ["the saved", "the loading", "neither"])
def test_without_names_on_one_side_parameters_are_matched_by_position(named):
    (model, _), (other, _) = twins("htmuon")
    optimizer = htmuon.HTMuon(htmuon.param_groups(model, named=named == "the saved"))
    fresh = htmuon.HTMuon(htmuon.param_groups(other, named=named == "the loading"))
    train(model, optimizer, 3)
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(optimizer.state_dict())
    assert ("param_names" in fresh.param_groups[0]) == (named != "neither")
    assert_go_on_alike(model, optimizer, other, fresh)


# Settings


def test_settings_that_a_state_dict_lacks_stay_as_they_are():
    model, optimizer, other, _ = trained_pair("normuon", eps=1e-6, momentum=0.9)
    fresh = htmuon.NorMuon(htmuon.param_groups(other), eps=1e-6, momentum=0.9)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in ("eps", "betas", "momentum", "compile", "stack_elements", "beta2", "split", "skipped_steps"):
            del group[name]
    fresh.load_state_dict(saved)
    keys = {frozenset(group) for group in fresh.param_groups}
    assert keys == {frozenset(group) for group in optimizer.param_groups}
    assert_go_on_alike(model, optimizer, other, fresh)


RULES = [
    ("rate_rule", "alignment", None),
    ("rate_rule", htmuon.optim.Alignment(speed=0.2), "alignment"),
    ("power_rule", "alignment", None),
    ("momentum_rule", "average", htmuon.optim.TwoAverages(slow=0.99)),
    ("weight_update", "hyperball", "decoupled"),
    ("power", 0.25, 0.5),
    ("spectral_map", "knee", "power"),
    ("normalization", "rms", "auto"),
]


@pytest.mark.parametrize(("name", "mine", "saved"), [*RULES, *((name, b, a) for name, a, b in RULES)])
def test_rules_that_a_state_dict_changes_are_said_with_both_and_a_remedy(name, mine, saved):
    _, optimizer, other, _ = trained_pair(**{name: saved})
    fresh = htmuon.HTMuon(htmuon.param_groups(other), **{name: mine})
    groups = optimizer.state_dict()["param_groups"]
    before, after = fresh.param_groups[0][name], groups[0][name]
    with pytest.warns(UserWarning, match="the state_dict brings") as said:
        fresh.load_state_dict(optimizer.state_dict())
    (sentence,) = [str(warning.message) for warning in said]  # not one for each group
    assert f"the state_dict brings {name}={after!r} in place of {before!r}, which" in sentence
    assert f"set group[{name!r}] = {before!r} after loading" in sentence
    assert {str(group[name]) for group in fresh.param_groups} == {str(after)}
    # By the remedies, and with the settings of the run that is continued, nothing is said: warnings are errors.
    for group in groups:
        del group[name]
    fresh = htmuon.HTMuon(htmuon.param_groups(other), **{name: mine})
    fresh.load_state_dict({"state": {}, "param_groups": groups})
    assert fresh.param_groups[0][name] == before
    fresh = htmuon.HTMuon(htmuon.param_groups(other), **{name: saved})
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))


def numpy_settings():
    return {
        "lr": np.float32(0.02),
        "power": np.float64(0.25),
        "momentum": torch.tensor(0.9, dtype=torch.float64),
        "nesterov": np.bool_(True),
        "weight_decay": np.array(0.125),
        "stack_elements": np.int64(2**12),
        "eps": np.float64(1e-7),
        "adamw_lr": np.float64(0.001),
        "adamw_betas": (np.float32(0.5), torch.tensor(0.75)),
        "adamw_eps": np.array(1e-9),
        "adamw_weight_decay": np.float16(0.25),
        "compile": np.bool_(False),
        "beta2": np.float32(0.5),
    }


def assert_plain(group):
    def check(value, path):
        if isinstance(value, dict):
            for key, of in value.items():
                check(of, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for of in value:
                check(of, path)
        else:
            assert value is None or type(value) in (int, float, bool, str), (path, type(value))

    for key, value in group.items():
        if key not in ("steps_taken", "skipped_steps"):
            check(value, key)


def test_numbers_of_numpy_and_tensors_at_construction_are_saved_as_pythons():
    (model, optimizer), (other, plain) = twins("normuon", **numpy_settings())
    settings = {key: value.item() for key, value in numpy_settings().items() if key != "adamw_betas"}
    plain = htmuon.NorMuon(htmuon.param_groups(other), **settings, adamw_betas=(0.5, 0.75))
    train(model, optimizer, 2)
    train(other, plain, 2)
    assert_same(model, other)
    saved = through_a_file(optimizer.state_dict())
    for group in saved["param_groups"]:
        assert_plain(group)
    plain.load_state_dict(saved)


def test_numbers_of_numpy_and_tensors_in_groups_are_saved_as_pythons():
    fused, gain = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.ones(4))
    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=10)
    schedule = {key: value if isinstance(value, str) else np.array(value)[()] for key, value in schedule.items()}
    schedule["total_steps"] = torch.tensor(10)
    matrices = {"params": [fused], "split": [np.int64(2), torch.tensor(6)], "power_schedule": schedule}
    others = {"params": [gain], "use_muon": np.bool_(False), "lr": np.float32(0.5), "betas": [np.float64(0.5), 0.75]}
    optimizer = htmuon.HTNorMuon([{**matrices, "beta2": np.float32(0.5), "lr": np.float64(0.1)}, others])
    fused.grad, gain.grad = torch.randn(8, 4), torch.ones(4)
    optimizer.step()
    saved = through_a_file(optimizer.state_dict())
    for group in saved["param_groups"]:
        assert_plain(group)
    assert saved["param_groups"][0]["split"] == [2, 6]
    assert saved["param_groups"][0]["beta2"] == 0.5
    optimizer.load_state_dict(saved)
    optimizer.step()


@pytest.mark.parametrize("steps_between", [True, False])
def test_numbers_of_numpy_and_tensors_that_are_edited_in_are_saved_as_pythons(steps_between):
    (model, optimizer), _ = twins("adamuon")
    train(model, optimizer, 1)
    schedule = {"name": "interval", "power": np.float32(0.5), "every": np.int64(3)}
    for group in optimizer.param_groups:
        group.update(
            lr=np.float64(0.01), weight_decay=torch.tensor(0.5), betas=(np.float32(0.5), np.float64(0.75)),
            eps=np.array(1e-6), beta2=np.float64(0.5), nesterov=np.bool_(False), power_schedule=schedule,
            split=np.int64(1), stack_elements=torch.tensor(4096),
        )  # fmt: skip
    if steps_between:
        train(model, optimizer, 1, first=1)
    saved = through_a_file(optimizer.state_dict())
    for group in saved["param_groups"]:
        assert_plain(group)


def test_a_schedule_of_numpy_may_be_saved_between_the_scheduler_and_the_next_step():
    # The order of every training loop: step, schedule, save.
    model, optimizer, other, fresh = trained_pair(lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: np.cos(step / 10))
    train(model, optimizer, 1, first=3)
    scheduler.step()
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    assert_go_on_alike(model, optimizer, other, fresh, first=4)


def test_a_saved_tensor_that_is_a_learning_rate_stays_one():
    model, optimizer, other, fresh = trained_pair(lr=torch.tensor(0.02))
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    assert torch.equal(fresh.param_groups[0]["lr"], torch.tensor(0.02))
    assert fresh.param_groups[0]["lr"] is not optimizer.param_groups[0]["lr"]
    assert_go_on_alike(model, optimizer, other, fresh)


def test_bad_settings_in_a_state_dict_change_nothing():
    _, optimizer, other, fresh = trained_pair()
    for name, value, words in (
        ("lr", torch.tensor(-0.1), "lr must be"),
        ("eps", -1.0, "eps must be"),
        ("split", 5, "split"),
        ("power", 3.0, "power must lie"),
        ("steps_taken", None, "steps_taken must be a number.*has None"),
        ("skipped_steps", torch.zeros(2), "skipped_steps must be a number"),
    ):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0][name] = value
        assert_refused(other, fresh, saved, words)


# torch.distributed.checkpoint in one process


def checkpointed(model, optimizer, lacks):
    weights, state = get_state_dict(model, optimizer)
    for group in state["param_groups"]:
        for name in lacks:
            del group[name]
    return weights, state


@pytest.mark.parametrize("lacks", [(), ("eps",), ("compile", "betas", "skipped_steps")])
def test_set_state_dict_of_torch_loads_groups_that_lack_a_setting(lacks):
    model, optimizer, other, fresh = trained_pair()
    weights, state = checkpointed(model, optimizer, lacks)
    set_state_dict(other, fresh, model_state_dict=weights, optim_state_dict=copy.deepcopy(state))
    assert {frozenset(g) for g in fresh.param_groups} == {frozenset(g) for g in optimizer.param_groups}
    assert_go_on_alike(model, optimizer, other, fresh)


@pytest.mark.parametrize("lacks", [(), ("eps",)])
def test_a_distributed_checkpoint_loads_partially_where_it_lacks_a_setting(lacks, tmp_path):
    model, optimizer, other, fresh = trained_pair()
    weights, state = checkpointed(model, optimizer, lacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that one process saves alone
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
        weights, state = get_state_dict(other, fresh)
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
        found = {"model": weights, "optimizer": state}
        dcp.load(found, checkpoint_id=tmp_path, planner=planner)
    set_state_dict(other, fresh, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
    assert fresh.param_groups[0]["eps"] == optimizer.param_groups[0]["eps"]
    assert_go_on_alike(model, optimizer, other, fresh)


def test_a_network_has_parameters_on_both_sides():
    # What the tests above stand on.
    sides = [group["use_muon"] for group in htmuon.param_groups(network())]
    assert sides == [True, False, False]


@pytest.mark.parametrize(("settings", "word"), [({"amsgrad": True}, "amsgrad"), ({"maximize": True}, "maximize")])
def test_steps_that_this_adamw_does_not_take_are_refused(settings, word):
    theirs, ours = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    theirs.grad = torch.ones(3)
    reference = torch.optim.AdamW([theirs], **settings)
    reference.step()
    optimizer = htmuon.HTMuon([{"params": [ours], "use_muon": False}])
    with pytest.raises(ValueError, match=f"{word}=True takes steps"):
        optimizer.load_state_dict(reference.state_dict())
    assert not optimizer.state


def test_decay_in_the_gradient_is_refused_where_there_is_any():
    ours = torch.nn.Parameter(torch.ones(3))
    for decay in (0.0, 0.5):
        theirs = torch.nn.Parameter(torch.ones(3))
        theirs.grad = torch.ones(3)
        reference = torch.optim.Adam([theirs], weight_decay=decay)
        reference.step()
        optimizer = htmuon.HTMuon([{"params": [ours], "use_muon": False}])
        if decay:
            with pytest.raises(ValueError, match="decoupled_weight_decay=False takes steps"):
                optimizer.load_state_dict(reference.state_dict())
        else:
            optimizer.load_state_dict(reference.state_dict())


def test_the_state_of_another_kind_of_optimizer_is_refused():
    theirs, ours = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    theirs.grad = torch.ones(3, 3)
    adamw, sgd = torch.optim.AdamW([theirs]), torch.optim.SGD([theirs], momentum=0.9)
    adamw.step()
    sgd.step()
    with pytest.raises(ValueError, match="must have momentum_buffer; it has step, exp_avg, exp_avg_sq"):
        htmuon.HTMuon([ours]).load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="must have step and exp_avg and exp_avg_sq; it has momentum_buffer"):
        htmuon.HTMuon([{"params": [ours], "use_muon": False}]).load_state_dict(sgd.state_dict())


def test_an_older_counter_is_the_one_of_today():
    schedule = htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=10)
    weight = torch.nn.Parameter(torch.eye(3))
    optimizer = htmuon.HTMuon([weight], power_schedule=schedule)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["step"] = torch.tensor(4)
    del saved["param_groups"][0]["steps_taken"]
    optimizer.load_state_dict(saved)
    weight.grad = torch.eye(3)
    optimizer.step()
    assert optimizer.param_groups[0]["steps_taken"] == 5
    assert optimizer.param_groups[0]["power"] == pytest.approx(0.3)
    assert "step" not in optimizer.param_groups[0]


@pytest.mark.parametrize("count", [-1, float("nan"), "x"])
def test_counts_that_are_none_are_refused(count):
    optimizer = htmuon.HTMuon([torch.nn.Parameter(torch.eye(3))])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["steps_taken"] = count
    with pytest.raises(ValueError, match="steps_taken must be"):
        optimizer.load_state_dict(saved)
