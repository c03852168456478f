"""The matrices of a checkpoint, listed without reading them and read one at a time.

A checkpoint is one or more files of named tensors: safetensors, or pickles of torch that are opened only where that is
allowed, and then by `torch.load(weights_only=True)`. Each tensor of two or more dims is one matrix or several, see
`htmuon.checkpoints.stored_matrix`.
"""

import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from htmuon.checkpoints.stored_matrix import StoredMatrix, StoredTensor, matrices_of, side_tables
from htmuon.routing.names import natural_key

SAFETENSORS_SUFFIXES = (".safetensors",)
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth")

# The names that safetensors has for torch's dtypes; others keep torch's name.
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
# Under these keys training scripts put the weights beside the state of the optimizer.
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")
# Weights are no deeper in nested containers.
_DEEPEST = 8
_LFS_HEAD = b"version https://git-lfs"


class CheckpointError(ValueError):
    """A file that is not what its name says, or that must not be opened."""


class _File(Protocol):
    """A file of named tensors."""

    path: Path

    def listing(self) -> list[StoredTensor]:
        """Its tensors, without their numbers."""

    def read(self, key: str, index: int | None) -> Tensor:
        """A tensor, or one row of it, on the CPU and with memory of its own."""


class Checkpoint:
    """The matrices of one or more files.

    Args:
        files: safetensors files, or pickles of torch.
        allow_pickle: whether pickles may be opened, by `torch.load(weights_only=True)`.

    Attributes:
        matrices: in natural order of their names: `layers.2` before `layers.10`.
        skipped: number of tensors that are no matrix: vectors, scalars, integer tables of one row, empty tensors.

    Raises:
        CheckpointError: a file is missing, damaged, of an unknown kind, a pickle that is not allowed, or has a tensor
            that another file has too.
        ImportError: safetensors is not installed.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_file
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_file({"conv.weight": torch.ones(8, 4, 3, 3), "conv.bias": torch.ones(8)}, file)
        >>> checkpoint = Checkpoint([file])
        >>> [(matrix.name, matrix.shape) for matrix in checkpoint.matrices], checkpoint.skipped
        ([('conv.weight', (8, 36))], 1)
        >>> checkpoint.read(checkpoint.matrices[0]).shape
        torch.Size([8, 36])
    """

    def __init__(self, files: Sequence[Path], *, allow_pickle: bool = False) -> None:
        self._files = {path: _opened(path, allow_pickle) for path in files}
        found: dict[str, StoredMatrix] = {}
        self.skipped = 0
        listings = {path: file.listing() for path, file in self._files.items()}
        beside = side_tables(stored for listing in listings.values() for stored in listing)
        for path, listing in listings.items():
            for stored in listing:
                matrices = matrices_of(path, stored, side_table=stored.key in beside)
                self.skipped += not matrices
                for matrix in matrices:
                    if matrix.name in found:
                        raise CheckpointError(
                            f"the files of a checkpoint must have different tensors; {matrix.name} is in "
                            f"{found[matrix.name].file.name} and in {path.name}. Give one of the files."
                        )
                    found[matrix.name] = matrix
        self.matrices = tuple(found[name] for name in sorted(found, key=natural_key))

    def read(self, matrix: StoredMatrix) -> Tensor:
        """Read one matrix of this checkpoint.

        Returns:
            `[rows, columns]` on the CPU, in the dtype of the file.
        """
        return self._files[matrix.file].read(matrix.key, matrix.index).reshape(matrix.shape)


def _opened(path: Path, allow_pickle: bool) -> _File:
    suffix = path.suffix.lower()
    if not path.exists():
        raise CheckpointError(f"{path} must be a file; there is none. Check the path.")
    with path.open("rb") as file:
        if file.read(len(_LFS_HEAD)) == _LFS_HEAD:
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the weights. Fetch them with `git lfs pull`.")
    if suffix in SAFETENSORS_SUFFIXES:
        return _SafetensorsFile(path)
    if suffix not in PICKLE_SUFFIXES:
        known = ", ".join((*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES))
        raise CheckpointError(f"a checkpoint must be a file that ends in {known}; got {path.name}. Convert it to one.")
    if not allow_pickle:
        raise CheckpointError(
            f"{path} is a pickle, which is opened only on request. Add --allow-pickle (allow_pickle=True) to load its "
            "tensors without running code in it (torch.load with weights_only=True), or save them as safetensors."
        )
    return _PickleFile(path)


class _SafetensorsFile:
    """A safetensors file, mapped only while something is read, so that the process holds no more than one tensor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._safetensors = _safetensors()

    def listing(self) -> list[StoredTensor]:
        """Its tensors, without their numbers."""
        try:
            with self._safetensors.safe_open(self.path, framework="pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  # not a dict
                return [
                    StoredTensor(key=key, shape=tuple(view.get_shape()), dtype=str(view.get_dtype()))
                    for key, view in slices.items()
                ]
        except self._safetensors.SafetensorError as error:
            raise CheckpointError(
                f"{self.path} must be a whole safetensors file; it is damaged or cut short ({error}). Fetch it again."
            ) from error

    def read(self, key: str, index: int | None) -> Tensor:
        """A tensor, or one row of it, on the CPU and with memory of its own."""
        with self._safetensors.safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(key) if index is None else file.get_slice(key)[index]
            return tensor.clone()


def _safetensors() -> ModuleType:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise ImportError('reading safetensors files needs safetensors: pip install "htmuon[train]"') from error
    return safetensors


class _PickleFile:
    """A pickle of torch: a state_dict, or a dict with one in it. Only tensors and plain containers are unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = dict(_flat(_weights(_unpickled(path))))

    def listing(self) -> list[StoredTensor]:
        """Its tensors, without their numbers."""
        first: dict[Any, str] = {}
        return [
            StoredTensor(
                key=key,
                shape=tuple(tensor.shape),
                dtype=_dtype_name(tensor),
                tied_to=None if (owner := first.setdefault(_memory(key, tensor), key)) == key else owner,
            )
            for key, tensor in self._tensors.items()
        ]

    def read(self, key: str, index: int | None) -> Tensor:
        """A tensor, or one row of it, on the CPU and with memory of its own."""
        tensor = self._tensors[key].detach()
        return (tensor if index is None else tensor[index]).clone()


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch checks sparse tensors and says that it may take its time; they are no weights here.
            warnings.filterwarnings("ignore", message="Validating sparse tensor invariants")
            # The zip format is mapped into memory and read where it is touched; the older one has to be read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch, zipfile and pickle each have errors of their own for a damaged file
        raise CheckpointError(
            f"{path} must be a whole pickle of torch with tensors and plain containers only; it cannot be loaded with "
            f"weights_only=True ({_first_sentence(error)}). Save the model's state_dict() as safetensors."
        ) from error


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".")


def _weights(content: Any) -> Any:
    """The weights among what a training script saved: the value of a known key, else everything."""
    if isinstance(content, Mapping):
        for key in _WEIGHT_KEYS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content


def _flat(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested containers, by dotted name; a container that contains itself ends somewhere."""
    if depth > _DEEPEST:
        return
    if isinstance(content, Tensor):
        yield prefix or "tensor", content
    elif isinstance(content, Mapping | list | tuple):
        items: Iterable[tuple[Any, Any]] = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)


def _memory(key: str, tensor: Tensor) -> Any:
    """What tensors that are one and the same have in common, and no others."""
    if not _is_plain(tensor) or tensor.numel() == 0:
        return key
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return *place, tensor.shape, tensor.stride(), tensor.dtype


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds its numbers itself; subclasses hold a shard of them, or make them of quantized ones."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_meta


def _dtype_name(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    if not _is_plain(tensor):
        return type(tensor).__name__
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
