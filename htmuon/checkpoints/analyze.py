"""Reading and measuring the matrices of checkpoints, one stack of equal shapes at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path

import torch

from htmuon._device import pick_device
from htmuon._registry import unknown_name
from htmuon.analysis import ESTIMATORS, Estimator, MatrixAnalysis, analyze_matrices
from htmuon.analysis.alternatives import Alternative, LawComparison, compare
from htmuon.analysis.bootstrap import GoodnessOfFit, goodness_of_fit
from htmuon.checkpoints.analysis_result import Analysis, CheckpointAnalysis, Row
from htmuon.checkpoints.find import find_checkpoint
from htmuon.checkpoints.reading import Checkpoint
from htmuon.checkpoints.stored_matrix import StoredMatrix
from htmuon.routing.names import ModulePlace, common_prefixes, module_places


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


# Small matrices are read together up to this many elements; a larger one is read alone.
_STACK_ELEMENTS = 2**22

_KINDS = {"side_table": "tables of quantized weights, such as their scales", "complex": "complex numbers"}
_DEQUANTIZE = "Dequantize it to bfloat16 or float32."
_REMEDIES = {
    "complex": "Store real and imaginary parts as two tensors.",
    "sparse": "Store them after .to_dense().",
    "sharded": "Save the state_dict of the whole model.",
    "no_numbers": "Save a model that has its weights in memory.",
}

# Called after each stack with work done, all work (m n min(m, n) for a matrix, as for an SVD), and the last name.
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class _Selected:
    """A checkpoint, and those of its matrices that are wanted."""

    path: Path
    note: str
    checkpoint: Checkpoint
    matrices: tuple[StoredMatrix, ...]

    @property
    def measurable(self) -> list[StoredMatrix]:
        return [matrix for matrix in self.matrices if matrix.status == "ok"]


def analyze(config: AnalyzeConfig, progress: Progress | None = None) -> Analysis:
    """Measure the spectra of all matrices of one or two checkpoints.

    The memory that is needed is that of the largest matrix, several times over, not that of the checkpoint.

    Args:
        config: all settings.
        progress: called with the work done, all work, and the name of what was measured last.

    Raises:
        ValueError: a path has no checkpoint, or one that is damaged, has no matrices, or a pickle that is not allowed;
            a pattern matches nothing; or two checkpoints have no matrix in common.
        ImportError: safetensors is not installed.
    """
    device = pick_device(config.device)
    selected = [_select(path, config) for path in (config.path, config.against) if path is not None]
    prefixes = _matching(selected)
    total = sum(_work(matrix) for part in selected for matrix in part.measurable)
    done = 0.0
    measured: list[CheckpointAnalysis] = []
    for part, prefix in zip(selected, prefixes, strict=True):
        found: dict[str, _Found] = {}
        for stack in _stacks(part.measurable):
            found |= _measure(part.checkpoint, stack, config, device)
            done += sum(map(_work, stack))
            if progress is not None:
                progress(done, total, stack[-1].name)
        measured.append(_together(part, prefix, found))
    return Analysis(
        checkpoints=tuple(measured),
        estimators=config.estimators,
        samples=config.samples,
        alternatives=config.alternatives,
    )


def _select(path: Path, config: AnalyzeConfig) -> _Selected:
    found = find_checkpoint(path)
    checkpoint = Checkpoint(found.files, allow_pickle=config.allow_pickle)
    if not checkpoint.matrices:
        raise ValueError(
            f"{path} must have tensors of two or more dims; of its {checkpoint.skipped} none is one. "
            "Give the file of the model's weights."
        )
    names = [matrix.name for matrix in checkpoint.matrices]
    for option, patterns in (("include", config.include), ("exclude", config.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"--{option} pattern {pattern!r} matches no matrix of {path}. Patterns are shell-style over whole "
                    f"names such as {names[0]}: try {'*' + pattern + '*'!r}."
                )
    chosen = tuple(matrix for matrix in checkpoint.matrices if _wanted(matrix.name, config))
    if not chosen:
        raise ValueError(f"--include and --exclude must leave a matrix of {path}; they leave none. Make one narrower.")
    if not any(matrix.status == "ok" for matrix in chosen):
        raise ValueError(
            f"{path} must have floating-point weights (F64, F32, F16, BF16); no weight could be measured: its "
            f"{len(chosen)} matrices are stored as {_listed(map(_kind, chosen))}. "
            + " ".join(dict.fromkeys(_REMEDIES.get(matrix.status, _DEQUANTIZE) for matrix in chosen))
        )
    return _Selected(path, found.note, checkpoint, chosen)


def _kind(matrix: StoredMatrix) -> str:
    """The dtype of what cannot be measured, and what it is where the dtype does not say so."""
    kind = _KINDS.get(matrix.status)
    return f"{matrix.dtype} ({kind})" if kind else matrix.dtype


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words)))


def _wanted(name: str, config: AnalyzeConfig) -> bool:
    included = not config.include or any(fnmatchcase(name, pattern) for pattern in config.include)
    return included and not any(fnmatchcase(name, pattern) for pattern in config.exclude)


def _matching(selected: Sequence[_Selected]) -> tuple[str, ...]:
    """What to take off the names of each checkpoint to match them with those of the other."""
    if len(selected) == 1:
        return ("",)
    first, second = ({matrix.name for matrix in part.matrices} for part in selected)
    prefixes = common_prefixes(first, second)
    if not {name.removeprefix(prefixes[0]) for name in first} & {name.removeprefix(prefixes[1]) for name in second}:
        examples = " and ".join(f"{part.path} has {part.matrices[0].name}" for part in selected)
        raise ValueError(
            f"two checkpoints must have matrices of the same names to be compared; {examples}, and none in common. "
            "Give checkpoints of one architecture, or analyze each by itself."
        )
    return prefixes


def _work(matrix: StoredMatrix) -> float:
    m, n = matrix.shape
    return float(m * n * min(m, n))


def _stacks(matrices: Sequence[StoredMatrix]) -> Iterator[list[StoredMatrix]]:
    """Matrices that are measured together: of one file, dtype and shape, and not too many."""
    ordered = sorted(matrices, key=lambda matrix: (str(matrix.file), matrix.shape, matrix.dtype))
    for (_, (m, n), _), group in groupby(ordered, lambda matrix: (matrix.file, matrix.shape, matrix.dtype)):
        stack, size = list(group), max(1, _STACK_ELEMENTS // (m * n))
        yield from (stack[start : start + size] for start in range(0, len(stack), size))


def _measure(
    checkpoint: Checkpoint, stack: Sequence[StoredMatrix], config: AnalyzeConfig, device: torch.device
) -> dict[str, "_Found"]:
    try:
        tensors = {matrix.name: checkpoint.read(matrix).to(device) for matrix in stack}
        results = analyze_matrices(tensors, estimators=config.estimators, randomized=config.randomized)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        m, n = stack[0].shape
        raise ValueError(
            f"{stack[0].name} of shape {m}x{n} must fit in memory several times over; there is not enough on {device}. "
            "Leave it out with --exclude, or take another device."
        ) from error
    return {result.name: _Found.of(result, config) for result in results}


def _is_out_of_memory(error: Exception) -> bool:
    # torch has an error of its own for this on accelerators alone.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was measured about one matrix: the fields of its row."""

    analysis: MatrixAnalysis
    goodness: Mapping[Estimator, GoodnessOfFit]
    comparisons: Mapping[Estimator, Mapping[Alternative, LawComparison]]

    @classmethod
    def of(cls, analysis: MatrixAnalysis, config: AnalyzeConfig) -> "_Found":
        eigenvalues = analysis.eigenvalues
        fits = {name: fit for name, fit in analysis.fits.items() if analysis.status == "ok" and fit.ok}
        return cls(
            analysis=analysis,
            goodness={
                name: goodness_of_fit(eigenvalues, fit, samples=config.samples)
                for name, fit in fits.items()
                if config.samples
            },
            comparisons={name: compare(eigenvalues, fit) for name, fit in fits.items() if config.alternatives},
        )


def _together(part: _Selected, prefix: str, found: Mapping[str, _Found]) -> CheckpointAnalysis:
    place = module_places(matrix.name.removeprefix(prefix) for matrix in part.matrices)
    return CheckpointAnalysis(
        path=part.path,
        note=", ".join(filter(None, [part.note, f"names compared without {prefix!r}" if prefix else ""])),
        rows=tuple(
            _row(matrix, matrix.name.removeprefix(prefix), place, found.get(matrix.name)) for matrix in part.matrices
        ),
        skipped=part.checkpoint.skipped,
        excluded=len(part.checkpoint.matrices) - len(part.matrices),
    )


def _row(matrix: StoredMatrix, key: str, place: Mapping[str, ModulePlace], found: _Found | None) -> Row:
    if found is None:
        return Row(stored=matrix, place=place[key], key=key, analysis=None)
    return Row(
        stored=matrix,
        place=place[key],
        key=key,
        analysis=found.analysis,
        goodness=found.goodness,
        comparisons=found.comparisons,
    )
