"""A map, its name, its dict and its exponent say the same."""

import dataclasses
import math

import pytest
import torch

from htmuon.spectral import MAPS, Blend, Clip, Knee, Power, Quantile, RankPower, Soren, map_of, map_setting
from htmuon.spectral.choice import exponent

OBJECTS = [
    Power(0.25),
    RankPower(-0.5),
    Knee(0.25),
    Knee(0.25, tau=0.02),
    Knee(0.25, tau=Quantile(0.5), sharpness=math.inf),
    Clip(),
    Clip(tau=0.1, sharpness=math.inf),
    Clip(sharpness=3.0),
    Soren(),
    Soren(0.8),
    Blend(),
    Blend(0.5),
]
# The exponent of maps that have one of their own.
OWN = {"soft_clip": 1.0, "hard_clip": 1.0, "soren": 0.0, "blend": 0.0}


@pytest.mark.parametrize("name", MAPS)
def test_a_registered_map_is_its_name(name):
    power = OWN.get(name, 0.25)
    function = MAPS[name](power)
    assert (map_setting(function), exponent(function)) == (name, power)
    assert map_of(name, power) == function


@pytest.mark.parametrize("function", OBJECTS, ids=str)
def test_a_map_becomes_a_setting_and_itself_again(function):
    assert map_of(map_setting(function), exponent(function)) == function


def test_an_exponent_on_a_device_is_not_read():
    power = torch.tensor(0.25, device="meta")
    assert map_setting(Knee(power, tau=0.02)) == {"name": "knee", "tau": 0.02, "sharpness": 4.0}
    assert map_of("power", power).power is power


def test_a_map_of_ones_own_that_is_a_class_needs_no_other_name(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Mine(Power):
        offset: float = 0.5

    monkeypatch.setitem(MAPS._parts, "mine", Mine)
    assert map_setting(Mine(0.25)) == "mine"
    assert map_setting(Mine(0.25, offset=1.0)) == {"name": "mine", "offset": 1.0}
    assert map_of({"name": "mine", "offset": 1.0}, 0.5) == Mine(0.5, offset=1.0)
