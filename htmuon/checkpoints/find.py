"""Which files a path means: a file, a folder of shards, a model folder of Hugging Face, a run folder."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from htmuon.checkpoints.reading import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES
from htmuon.training.run_folder import RunFolder

_INDEX = ".index.json"
# In the order of preference; a pickle is the last resort.
_NAMES = (f"model.safetensors{_INDEX}", "model.safetensors")
_PICKLE_NAMES = (f"pytorch_model.bin{_INDEX}", "pytorch_model.bin")
_SHARD = re.compile(r"(.*)-(\d+)-of-(\d+)(\.\w+)")


@dataclass(frozen=True)
class Found:
    """The files of a checkpoint.

    Attributes:
        files: at least one.
        note: what was chosen where there was a choice, as a clause; empty where there was none.
    """

    files: tuple[Path, ...]
    note: str = ""


def find_checkpoint(path: Path) -> Found:
    """The files that `path` means.

    A file is itself. In a folder: `model.safetensors` or its shards, else all safetensors files, else the newest
    checkpoint of an unfinished run, else `pytorch_model.bin` or its shards.

    Raises:
        ValueError: there is no such path, no checkpoint in the folder, or a part of one is missing.
    """
    if not path.exists():
        raise ValueError(f"{path} must be a file or folder with a checkpoint; there is none. Check the path.")
    if not path.is_dir():
        return Found((path,))
    return _named(path, _NAMES) or _all_safetensors(path) or _run(path) or _named(path, _PICKLE_NAMES) or _none(path)


def _named(folder: Path, names: tuple[str, ...]) -> Found | None:
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        return None
    return _indexed(path) if path.name.endswith(_INDEX) else Found((path,))


def _indexed(index: Path) -> Found:
    """The shards that an index names."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if name != Path(name).name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} must be JSON with a weight_map; it is damaged ({error!r}). Fetch it again."
        ) from error
    if outside or not names:
        raise ValueError(
            f"{index} must name files of its own folder; got {', '.join(outside) or 'none'}. Fetch it again."
        )
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise ValueError(
            f"{index.name} names {len(names)} files, of which {_some(missing)} {_are(missing)} not in {index.parent}. "
            "Fetch what is missing, or give one of the files."
        )
    return Found(tuple(index.parent / name for name in names), f"{len(names)} shards")


def _all_safetensors(folder: Path) -> Found | None:
    indices = sorted(path for suffix in SAFETENSORS_SUFFIXES for path in folder.glob(f"*{suffix}{_INDEX}"))
    if len(indices) == 1:
        return _indexed(indices[0])
    # Those of a run are no weights.
    others = {RunFolder(folder).spectra.name, "optimizer.safetensors"}
    files = [path for path in _files(folder, SAFETENSORS_SUFFIXES) if path.name not in others]
    for path in files:
        match = _SHARD.fullmatch(path.name)
        if match:
            stem, number, count, suffix = match.groups()
            wanted = [f"{stem}-{i:0{len(number)}}-of-{count}{suffix}" for i in range(1, int(count) + 1)]
            missing = [name for name in wanted if not (folder / name).exists()]
            if missing:
                raise ValueError(
                    f"{folder} must hold all {int(count)} shards of {stem}; {_some(missing)} {_are(missing)} not "
                    "there. Fetch what is missing, or give one of the files."
                )
    return Found(tuple(files), f"{len(files)} files" if len(files) > 1 else "") if files else None


def _run(folder: Path) -> Found | None:
    """The newest checkpoint of a run that has not finished."""
    steps = sorted(path for path in RunFolder(folder).checkpoints.glob("step-*/model.safetensors"))
    return Found((steps[-1],), f"the unfinished run's {steps[-1].parent.name}") if steps else None


def _none(folder: Path) -> Found:
    pickles = [path.name for path in _files(folder, PICKLE_SUFFIXES)]
    if pickles:
        remedy = f"It has {_some(pickles)}: give the file's own path, with --allow-pickle."
    else:
        patterns = [f"{level}model*.safetensors" for level in ("*/", "*/*/", "*/*/*/")]
        below = sorted({str(path.parent) for pattern in patterns for path in folder.glob(pattern)})
        remedy = f"There are some in {_some(below)}: give one of these." if below else "Check the path."
    raise ValueError(f"{folder} must hold safetensors files or pytorch_model.bin; it has none. {remedy}")


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
