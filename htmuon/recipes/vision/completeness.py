"""Whether a part of a data set has all its files, by their names."""

import re
from collections import defaultdict
from pathlib import Path

# As the hub names the files of a part: train-00000-of-00005.parquet, the older ones with a hash behind it.
_NUMBERED = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<total>\d+)")
_SHOWN = 3


def check_complete(files: list[Path], root: Path) -> None:
    """Check that of the files `NAME-NUMBER-of-TOTAL` every number is there.

    Args:
        files: files below `root`; those with other names are not looked at.
        root: the folder of the data set.

    Raises:
        ValueError: some are missing; the message names them.
    """
    found: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for file in files:
        if match := _NUMBERED.match(file.relative_to(root).as_posix()):
            found[match["stem"], match["total"]][int(match["number"])] = match["number"]
    missing = [name for (stem, total), numbers in found.items() for name in _missing(stem, total, numbers)]
    if missing:
        raise ValueError(
            f"the parquet files of a part must all be there; {str(root)!r} lacks {', '.join(missing[:_SHOWN])}"
            f"{f' and {len(missing) - _SHOWN} more' if len(missing) > _SHOWN else ''}. Put them there; files of the "
            "hub are fetched when there is a network."
        )


def _missing(stem: str, total: str, numbers: dict[int, str]) -> list[str]:
    first = 1 if int(total) in numbers and 0 not in numbers else 0  # most count from 0, a few from 1
    width = len(next(iter(numbers.values())))
    expected = range(first, first + int(total))
    return [f"{stem}-{number:0{width}}-of-{total}.parquet" for number in expected if number not in numbers]
