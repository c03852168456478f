"""A power above a floor: against the singular values themselves."""

import pytest
import torch
from matrices import mapped_by_svd, relative_error, zoo_matrix

import htmuon
from htmuon.spectral import FlooredPower


@pytest.mark.parametrize("power", [-1.0, -0.4, 0.0, 0.125, 1.0])
@pytest.mark.parametrize("floor", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_weights_are_level_below_the_floor(power, floor, method):
    matrix = zoo_matrix("condition 1e4", (30, 20))
    expected = mapped_by_svd(matrix, lambda sigma: sigma.clamp(min=floor * sigma.max()) ** power)
    found = htmuon.spectral_map(matrix, FlooredPower(power, floor=floor), method=method)
    # Of float64; eigh forms the Gram matrix, whose smallest eigenvalues are 1e-8 of the largest.
    assert relative_error(found, expected) < (1e-10 if method == "svd" else 1e-6)


def test_a_floor_of_rounding_is_a_power():
    matrix = zoo_matrix("condition 1e2", (12, 20))
    for normalization in ("none", "auto", "rms", "spectral"):
        power = htmuon.spectral_power(3 * matrix, -0.5, normalization=normalization, method="svd")
        floored = htmuon.spectral_map(
            3 * matrix, FlooredPower(-0.5, floor=1e-9), normalization=normalization, method="svd"
        )
        torch.testing.assert_close(floored, power)


def test_an_optimizer_takes_it_and_saves_it():
    weight = torch.nn.Parameter(torch.zeros(8, 6))
    weight.grad = zoo_matrix("condition 1e4", (8, 6)).to(torch.float32)
    settings = {"lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "adjust_lr_fn": None}
    optimizer = htmuon.HTMuon([weight], spectral_map=FlooredPower(-0.4, floor=0.01), normalization="rms", **settings)
    optimizer.step()
    expected = htmuon.spectral_map(weight.grad, FlooredPower(-0.4, floor=0.01), normalization="rms") * (8 / 6) ** 0.5
    torch.testing.assert_close(-weight.detach(), expected)
    group = optimizer.param_groups[0]
    assert (group["spectral_map"], group["power"]) == ({"name": "floored_power", "floor": 0.01}, -0.4)


@pytest.mark.parametrize("floor", [0.0, -1.0, 2.0, float("nan")])
def test_a_floor_lies_above_zero(floor):
    with pytest.raises(ValueError, match="floor must be a finite number greater than 0 and at most 1"):
        FlooredPower(0.5, floor=floor)


def test_products_have_no_recipe_for_it():
    with pytest.raises(ValueError, match="eigh"):
        htmuon.spectral_map(torch.eye(3), FlooredPower(-0.4), method="quintic")
