"""A checkpoint of so many ranks is one for any other number of ranks."""

import layout_problem
import pytest

pytestmark = pytest.mark.slow

SAVED, DONE = 7, 15
SETTINGS = {
    "htmuon": {"method": "eigh", "power_schedule": {"name": "linear", "start": 0.5, "end": -0.25, "total_steps": 12}},
    "htnormuon": {"method": "streaming"},
    "htadamuon": {"method": "eigh"},
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
    assert max(errors) <= 1e-6
