"""Records of a monitor as scalars of TensorBoard; the library is loaded where it is used."""

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Protocol, cast

from htmuon.analysis.record_log import Record

QUANTITIES = ("alpha_ks", "alpha_hill", "stable_rank", "spectral_norm", "sigma_q10", "sigma_q50", "sigma_q90")


class ScalarWriter(Protocol):
    """What is needed of a `torch.utils.tensorboard.SummaryWriter`."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> Any:
        """Note the value of one quantity at one step."""

    def close(self) -> None:
        """Write what is not written yet."""


def summary_writer(folder: str | os.PathLike[str], step: int | None = None) -> ScalarWriter:
    """A `SummaryWriter` for a folder.

    Args:
        folder: made if it is not there.
        step: of a resumed run: what an earlier writer noted of later steps is hidden.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"tensorboard={os.fspath(folder)!r} needs the library tensorboard, which is not installed: "
            'pip install "htmuon[tensorboard]"'
        ) from error
    writer = SummaryWriter(os.fspath(folder), purge_step=None if step is None else step + 1)
    return cast(ScalarWriter, writer)


def write_scalars(writer: ScalarWriter, records: Sequence[Record]) -> None:
    """Write `<kind>/<quantity>/<name>`, and under `<kind>/<quantity>` the mean over the matrices."""
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for record in records:
        for quantity in QUANTITIES:
            value = record[quantity]
            if math.isfinite(value):
                writer.add_scalar(f"{record['kind']}/{quantity}/{record['name']}", value, record["step"])
                values[f"{record['kind']}/{quantity}", record["step"]].append(value)
    for (tag, step), found in values.items():
        writer.add_scalar(tag, statistics.fmean(found), step)
