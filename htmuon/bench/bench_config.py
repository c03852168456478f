"""The settings of a bench."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from htmuon._registry import unknown_name
from htmuon.spectral.base import check_power

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Everything that decides what a bench measures.

    Args:
        model: a recipe or a model of the paper; "" takes `shapes`.
        shapes: shapes of the user's own, such as "512x1376*4".
        layers: only the matrices of the first layers of `model`.
        power: the exponent of the methods.
        methods: names in `htmuon.linalg.METHODS`, or "auto"; None means all that can compute the power.
        candidates: optimizer specs, such as "htmuon:method=eigh".
        peers: whether other libraries that are installed are benched too.
        rounds: how many are counted.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: of the parameters and gradients.
        momentum: a file of recorded matrices on which errors are measured; synthetic ones if it is None.
    """

    model: str = ""
    shapes: tuple[str, ...] = ()
    layers: int | None = None
    power: float = 0.125
    methods: tuple[str, ...] | None = None
    candidates: tuple[str, ...] = ()
    peers: bool = True
    rounds: int = 7
    device: str = "auto"
    dtype: Dtype = "float32"
    momentum: Path | None = None

    def __post_init__(self) -> None:
        check_power(self.power)
        if bool(self.model) == bool(self.shapes):
            given = f"{self.model} and {' '.join(self.shapes)}" if self.model else "neither"
            raise ValueError(f"a bench needs either a recipe or shapes; got {given}.")
        if self.layers is not None and self.shapes:
            raise ValueError("layers are those of a recipe; shapes have none: give a shape its count, as 512x512*4.")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1; got {self.rounds}.")
        if self.dtype not in get_args(Dtype):
            raise unknown_name("dtype", self.dtype, list(get_args(Dtype)))

    @property
    def parameter_dtype(self) -> torch.dtype:
        """The dtype that `dtype` names."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16
