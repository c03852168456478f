"""The settings of an analysis."""

from dataclasses import dataclass
from pathlib import Path

from htmuon._registry import unknown_name
from htmuon.analysis import ESTIMATORS, Estimator


@dataclass(frozen=True, kw_only=True)
class AnalyzeConfig:
    """Everything that decides what an analysis measures.

    Args:
        path: a file, a folder of shards, a model folder of Hugging Face, or a run folder.
        against: a second one, to compare with.
        include: shell-style patterns over whole names; a matrix must match one of them. Empty: all.
        exclude: patterns of matrices that are left out.
        estimators: the power-law fits to make.
        samples: synthetic spectra for the p-value of each fit, by bootstrap; 0 makes none.
        alternatives: compare each power law with other laws on the same tail.
        randomized: measure a copy of each matrix with permuted entries too.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        allow_pickle: whether pickles of torch may be opened, with weights_only=True.
    """

    path: Path
    against: Path | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    estimators: tuple[Estimator, ...] = ESTIMATORS
    samples: int = 0
    alternatives: bool = False
    randomized: bool = False
    device: str = "auto"
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        if not self.estimators:
            raise ValueError(f"an analysis needs at least one estimator; got none. Take of {', '.join(ESTIMATORS)}.")
        for estimator in self.estimators:
            if estimator not in ESTIMATORS:
                raise unknown_name("estimator", estimator, list(ESTIMATORS))
        if len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"every estimator is to be given once; got {' '.join(self.estimators)}.")
        if self.samples < 0:
            raise ValueError(f"the number of synthetic spectra must be positive, or 0 for none; got {self.samples}.")
