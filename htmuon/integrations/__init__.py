"""Trainers and optimizer registries of other libraries, one file each, imported when it is used.

| file | what it is for |
|---|---|
| `transformers` | `Trainer`, and TRL's trainers: `factory`, `MonitorCallback`, `log_rates` |
| `lightning` | `Trainer`: `MonitorCallback`, `LearningRateFinder` |
| `timm` | `create_optimizer_v2` and timm's `train.py`: `register` |

accelerate needs nothing: an optimizer of this library is one of torch.
"""

import importlib
from types import ModuleType

__all__ = ["lightning", "timm", "transformers"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"htmuon.integrations.{name}")
    raise AttributeError(f"module 'htmuon.integrations' has no attribute {name!r}")
