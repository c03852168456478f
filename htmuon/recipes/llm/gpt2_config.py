"""The shape of a GPT-2."""

from dataclasses import dataclass
from typing import ClassVar

from htmuon.recipes.checks import check_whole
from htmuon.recipes.task_kind import TaskKind


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The shape of a GPT-2 without dropout, whose output head is its input embedding.

    Args:
        hidden_size: width of the residual stream; the MLP is four times as wide.
        num_layers: number of decoder blocks.
        num_heads: attention heads; `hidden_size / num_heads` must be a whole number.
    """

    task: ClassVar[TaskKind] = "language"
    noun: ClassVar[str] = "GPT-2 language model"

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads"):
            check_whole(name, getattr(self, name), 1)
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads; got hidden_size={self.hidden_size}, "
                f"num_heads={self.num_heads}."
            )
