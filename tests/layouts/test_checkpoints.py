"""A checkpoint of so many ranks is one for any other number of ranks."""

import layout_problem
import pytest

pytestmark = pytest.mark.slow

SAVED, DONE = 7, 15
SETTINGS = {
    "htmuon": {"method": "eigh", "power_schedule": {"name": "linear", "start": 0.5, "end": -0.25, "total_steps": 12}},
    "htnormuon": {"method": "streaming"},
    "htadamuon": {"method": "eigh"},
    "muon": {
        "method": "eigh",
        "rate_rule": {"name": "alignment", "speed": 1.0, "averaging": 0.5},
        "power_rule": {"name": "alignment", "speed": 0.5, "averaging": 0.5},
    },
}


@pytest.mark.parametrize("optimizer", SETTINGS)
@pytest.mark.parametrize(
    ("saved_on", "saved_as", "loaded_on", "loaded_as"),
    [
        (4, "fsdp", 2, "fsdp"),
        (4, "hsdp", 1, "alone"),
        (4, "fsdp_and_tensor_parallel", 2, "tensor_parallel"),
        (2, "ddp", 4, "fsdp"),
    ],
)
def test_a_run_goes_on_with_another_number_of_ranks(
    world, tmp_path, optimizer, saved_on, saved_as, loaded_on, loaded_as
):
    folder = str(tmp_path / "checkpoint")
    world(saved_on).run(layout_problem.save, saved_as, optimizer, folder, SAVED, **SETTINGS[optimizer])
    steps = range(SAVED, DONE)
    errors = world(loaded_on).run(
        layout_problem.resumed_alike, loaded_as, optimizer, folder, steps, **SETTINGS[optimizer]
    )
    # With rules sums of squares are added up in another order: 1e-6 of a rate or a power, times all steps.
    assert max(errors) <= (5e-6 if "rate_rule" in SETTINGS[optimizer] else 1e-6)
