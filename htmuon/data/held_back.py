"""The third part of the protocol: training data that a confirmation does not train on, and is judged by.

Nothing of a search was evaluated on it.
"""

import torch
from torch import Tensor

# Of so many documents or images one is held back.
EVERY = 16


def is_held_back(number: int, every: int = EVERY) -> bool:
    """Whether a confirmation holds back the training document or image of this number.

    Never the last of 16, which is held out for validation and test where data has no files for them.

    Example:
        >>> [number for number in range(48) if is_held_back(number)]
        [8, 24, 40]
    """
    return number % every == every // 2


def held_back(count: int) -> Tensor:
    """Which of so many are held back, `[count]` bool; of two or more one at least, and never all.

    Raises:
        ValueError: there are fewer than two.

    Example:
        >>> held_back(3), held_back(33).nonzero().flatten().tolist()
        (tensor([False,  True, False]), [8, 24])
    """
    if count < 2:
        raise ValueError(
            f"a confirmation needs at least two training documents or images, of which one is held back; got {count}."
        )
    every = min(EVERY, count)
    return torch.tensor([is_held_back(number, every) for number in range(count)])
