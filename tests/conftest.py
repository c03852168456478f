import pytest
import torch

pytest_plugins = ("runs",)


@pytest.fixture(autouse=True)
def fixed_arithmetic():
    """One thread and a fixed seed: tests run side by side, and repeat to the bit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
