"""Every optimizer by name: AdamW, this library's, and those of other packages that they are compared with.

optimizer = build_optimizer("htmuon:power=0.25", model, lr=0.02, adamw_lr=3e-3, weight_decay=0.1)
optimizer_info("lion").rule  # one row for each: label, settings, where a search for its learning rate starts
"""

from htmuon._registry import import_all
from htmuon.baselines.info import OptimizerInfo, RunInputs
from htmuon.baselines.registry import BASELINES, optimizer_info, optimizer_names, register
from htmuon.baselines.specs import build_optimizer, has_separate_rates, parse_spec

__all__ = [
    "BASELINES",
    "OptimizerInfo",
    "RunInputs",
    "build_optimizer",
    "has_separate_rates",
    "optimizer_info",
    "optimizer_names",
    "parse_spec",
    "register",
]

import_all(__name__)
