"""Random numbers for libraries that draw from the generators of the process."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from htmuon._extras import require


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch while the context is open; afterwards they are as they were.

    Args:
        seed: from 0 to 2^63 - 1.
        device: the CUDA device whose generator is meant too.

    Example:
        >>> state = random.getstate()
        >>> with seeded(3):
        ...     first = random.random()
        >>> with seeded(3):
        ...     first == random.random(), random.getstate() == state
        (True, False)
        >>> random.getstate() == state
        True
    """
    numpy = require("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        numpy.random.seed(seed % 2**32)  # NumPy's old generators, which timm draws from, take 32 bits
        # Not `torch.manual_seed`, which takes a millisecond to tell devices that may not even be there.
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
