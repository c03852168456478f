"""Bad settings, parameters and gradients: one clear sentence, and nothing changed."""

import math

import pytest
import torch
from torch import nn

import htmuon


def matrix():
    return nn.Parameter(torch.eye(3))


@pytest.mark.parametrize("name", list(htmuon.OPTIMIZERS))
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, r"lr must be a finite number at least 0; got -1\.0"),
        ({"lr": math.nan}, ValueError, "lr must be"),
        ({"lr": "fast"}, TypeError, "lr must be a number; got 'fast'"),
        ({"lr": torch.ones(2)}, TypeError, "tensor of one element"),
        ({"power": 2.0}, ValueError, "power must lie in"),
        ({"power": None}, TypeError, "power must be a number; got None"),
        ({"momentum": 1.0}, ValueError, r"momentum must be a finite number at least 0 and less than 1; got 1\.0"),
        ({"nesterov": 1}, TypeError, "nesterov must be True or False"),
        ({"compile": 1}, TypeError, "compile must be True or False"),
        ({"stack_elements": 0}, ValueError, "stack_elements must be at least 1; got 0"),
        ({"stack_elements": 2.0**24}, TypeError, "stack_elements must be a whole number; got"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay must be"),
        ({"normalization": "frobenius"}, ValueError, "normalization must be one of none, spectral, rms, lmo"),
        ({"adjust_lr_fn": "spectral"}, ValueError, "adjust_lr_fn must be one of original, match_rms_adamw"),
        ({"method": "cholesky"}, ValueError, "method must be one of auto"),
        ({"method": "newton_schulz", "power": 0.3}, ValueError, r"needs power 0 or 2\^-k"),
        ({"spectral_map": "powr"}, ValueError, "Did you mean 'power'"),
        ({"spectral_map": "rank_power", "method": "newton_schulz"}, ValueError, "not a power"),
        ({"normalization": "lmo", "power": -0.1}, ValueError, "'lmo' needs"),
        (
            {
                "power_schedule": {"name": "linear", "start": 0.5, "end": 0.125, "total_steps": 9},
                "method": "newton_schulz",
            },
            ValueError,
            r"needs power 0 or 2\^-k",
        ),
        (
            {"power_schedule": {"name": "linear", "start": 1.0, "end": -0.2, "total_steps": 9}, "normalization": "lmo"},
            ValueError,
            "'lmo' needs",
        ),
    ],
)
def test_bad_settings_are_named(name, settings, error, words):
    with pytest.raises(error, match=words):
        htmuon.OPTIMIZERS[name]([matrix()], **settings)


def test_match_rms_adamw_needs_a_known_size():
    with pytest.raises(ValueError, match="Use normalization='rms'"):
        htmuon.HTMuon([matrix()], adjust_lr_fn="match_rms_adamw")
    htmuon.HTMuon([matrix()], adjust_lr_fn="match_rms_adamw", normalization="rms")
    htmuon.Muon([matrix()], adjust_lr_fn="match_rms_adamw")
    htmuon.HTAdaMuon([matrix()])


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ({"params": [("norm.weight", nn.Parameter(torch.ones(4)))]}, ValueError, r"'norm\.weight' of shape \(4,\)"),
        ({"params": [("w", nn.Parameter(torch.ones(4, 4)))], "matrix_view": "conv"}, ValueError, "3 or more"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2, dtype=torch.complex64)))]}, TypeError, "real floating point"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2, device="meta")))]}, ValueError, "must have values; got"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2)))], "use_muon": 1}, TypeError, "use_muon must be True or"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2)))], "use_muon": False, "betas": 0.9}, TypeError, "a pair"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2)))], "matrix_view": "rows"}, ValueError, "one of linear"),
        ({"params": [("w", nn.Parameter(torch.ones(2, 2)))], "power": 7}, ValueError, "got 7"),
    ],
)
def test_a_bad_group_is_refused_and_the_optimizer_is_as_before(group, error, words):
    good = nn.Parameter(torch.eye(3))
    optimizer = htmuon.HTMuon([("good", good)])
    with pytest.raises(error, match=words):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    good.grad = torch.eye(3)
    optimizer.step()


def test_a_parameter_in_two_groups_is_refused():
    weight = matrix()
    with pytest.raises(ValueError, match="more than one parameter group"):
        htmuon.HTMuon([{"params": [weight]}, {"params": [weight], "use_muon": False}])


def test_a_vector_in_a_plain_list_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"htmuon\.param_groups\(model\)"):
        htmuon.HTMuon(nn.Linear(3, 3).parameters())


def test_beta2_is_checked_in_settings_and_groups():
    with pytest.raises(ValueError, match=r"beta2 must be a finite number at least 0 and less than 1; got 1\.0"):
        htmuon.NorMuon([matrix()], beta2=1.0)
    with pytest.raises(ValueError, match="beta2"):
        htmuon.AdaMuon([{"params": [matrix()], "beta2": -1.0}])


def test_a_sparse_gradient_is_refused_before_anything_moves():
    table, weight = nn.Embedding(5, 3, sparse=True), matrix()
    optimizer = htmuon.HTMuon([{"params": [weight]}, {"params": table.parameters(), "use_muon": False}])
    table(torch.tensor([1])).sum().backward()
    weight.grad = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r"gradients must be dense.*sparse=False"):
        optimizer.step()
    assert torch.equal(weight, torch.eye(3))
    assert not optimizer.state


def test_a_model_in_place_of_parameters_is_told_where_to_go():
    with pytest.raises(TypeError, match=r"got the model Linear. Pass htmuon\.param_groups\(model\)"):
        htmuon.HTMuon(nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module; got generator"):
        htmuon.param_groups(nn.Linear(3, 3).parameters())


def test_a_group_that_is_none_is_named_without_its_numbers():
    optimizer = htmuon.HTMuon([matrix()])
    with pytest.raises(TypeError, match="must be a dict with the key 'params'; got list"):
        optimizer.add_param_group([matrix()])


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    schedule = htmuon.power_schedule("linear", start=numpy.float32(0.5), end=0.0, total_steps=numpy.int64(10))
    assert schedule == {"name": "linear", "start": 0.5, "end": 0.0, "total_steps": 10}
    optimizer = htmuon.HTMuon([matrix()], adamw_betas=numpy.array([0.9, 0.5]), power_schedule=schedule)
    assert optimizer.param_groups[0]["betas"][1] == 0.5
    model = nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 2))
    assert htmuon.param_groups(model, split={"0.weight": numpy.int64(3)})[0]["split"] == 3
