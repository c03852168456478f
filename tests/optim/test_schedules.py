"""Power schedules are pure functions of the step."""

import math

import pytest
import torch
from torch import nn

import htmuon
from htmuon.optim.schedules import POWER_SCHEDULES, schedule_from_dict

EXAMPLES = {
    "constant": {"power": 0.125},
    "interval": {"power": 0.125, "every": 5},
    "linear": {"start": 0.5, "end": 0.0, "total_steps": 10},
    "logistic": {"start": 1.0, "end": -0.25, "total_steps": 100, "midpoint": 0.04, "width": 0.04},
}


def powers(schedule, steps):
    weight = nn.Parameter(torch.eye(3))
    optimizer = htmuon.HTMuon([weight], power_schedule=schedule)
    weight.grad = torch.eye(3)
    values = []
    for _ in range(steps):
        optimizer.step()
        values.append(optimizer.param_groups[0]["power"])
    return values


def test_every_schedule_has_an_example():
    assert set(EXAMPLES) == set(POWER_SCHEDULES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_schedule_is_a_plain_dict_that_stays_within_its_powers(name):
    schedule = htmuon.power_schedule(name, **EXAMPLES[name])
    assert {type(value) for value in schedule.values()} <= {str, int, float}
    bounds = schedule_from_dict(schedule).powers
    for value in powers(schedule, 20):
        assert min(bounds) <= value <= max(bounds)


def test_interval():
    assert powers(htmuon.power_schedule("interval", power=0.125, every=3), 7) == [0.125, 0, 0, 0.125, 0, 0, 0.125]


def test_linear():
    values = powers(htmuon.power_schedule("linear", start=0.5, end=0.0, total_steps=4), 6)
    assert values == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])


def test_logistic_has_the_shape_of_dynmuon():
    values = powers(htmuon.power_schedule("logistic", start=1.0, end=-0.25, total_steps=100), 50)
    # p_t = p_min + (p_max - p_min) / (1 + exp((t/T - tau) / w)), written out.
    expected = [-0.25 + 1.25 / (1 + math.exp((step / 100 - 0.04) / 0.04)) for step in range(50)]
    assert values == pytest.approx(expected)


def test_a_scheduler_of_one_group_leaves_the_others():
    a, b = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    schedule = htmuon.power_schedule("interval", power=0.5, every=2)
    optimizer = htmuon.HTMuon([{"params": [a], "power_schedule": schedule}, {"params": [b], "power": 0.25}])
    a.grad = b.grad = torch.eye(3)
    optimizer.step()
    optimizer.step()
    assert [group["power"] for group in optimizer.param_groups] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("schedule", "error", "words"),
    [
        ("interval", TypeError, "None or a dict with the key 'name'"),
        ({"name": "interwal"}, ValueError, "Did you mean 'interval'"),
        ({"name": "interval", "power": 0.1}, ValueError, "takes power, every; every is missing"),
        ({"name": "interval", "power": 0.1, "every": 5, "last": 1}, ValueError, "takes power, every; last is unknown"),
        ({"name": "interval", "power": 0.1, "every": 0}, ValueError, "every must be a whole number.*got 0"),
        ({"name": "interval", "power": 3.0, "every": 2}, ValueError, "got 3.0"),
        ({"name": "linear", "start": 0.1, "end": 0.0, "total_steps": 1.5}, ValueError, "total_steps must be a whole"),
        ({"name": "logistic", "start": 1.0, "end": 0.0, "total_steps": 9, "width": 0.0}, ValueError, "width must be"),
    ],
)
def test_bad_schedules_are_named(schedule, error, words):
    with pytest.raises(error, match=words):
        htmuon.HTMuon([nn.Parameter(torch.eye(3))], power_schedule=schedule)
