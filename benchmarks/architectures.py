"""Routes every architecture of transformers, timm and torchvision, and writes docs/architectures.md.

    python benchmarks/architectures.py --out runs/architectures.jsonl
    python benchmarks/architectures.py --page

Every model is built from its default configuration on the meta device, without weights and without network: of
transformers each model type with the head of the first auto class that builds it, of timm one model of each family (a
file and the first word of a name), of torchvision all but the quantized ones. Models that are in --out are not built
again, so that an interrupted run goes on; those of another commit are. A model that takes longer than --limit seconds
to build is left out and counted. At the end the results go to benchmarks/results/architectures.json and the page is
written; --page writes the page alone, from that file.
"""

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from page_parts import fill, markdown

import htmuon
from htmuon._files import write_json
from htmuon.cli.architectures import LIBRARIES, architecture, names
from htmuon.cli.route import percent
from htmuon.routing.routes import Route
from htmuon.routing.split import Interleaved, Split

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "architectures.json"
PAGE = ROOT / "docs" / "architectures.md"
Row = dict[str, Any]

# How many fused weights of a model the page names.
FUSED_SHOWN = 3
# So many parameters have the models whose routing is timed apart from that of larger ones.
FEW_TENSORS = 500


class TooLongError(BaseException):
    """Raised while a model is built; no Exception, for builders catch those."""


def chosen(library: str) -> list[str]:
    """The names that stand for a library."""
    if library == "torchvision":
        return [name for name in names(library) if "quantized" not in name]
    if library == "timm":
        registry = importlib.import_module("timm.models._registry")
        families = {(registry._model_to_module[name], name.split("_")[0]): name for name in reversed(names(library))}
        return sorted(families.values())
    return names(library)


def parts(split: Split) -> str:
    """How a weight is taken apart, in short."""
    if isinstance(split, Interleaved):
        return f"{split.heads} x ({' + '.join(map(str, split.sizes))})"
    return f"{split} parts" if isinstance(split, int) else " + ".join(map(str, split))


def common(name: str) -> str:
    """A name with `*` for the numbers in it."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def fused(routes: tuple[Route, ...]) -> list[str]:
    """The weights that are taken apart, by the last two parts of their names."""
    found = {}
    for route in routes:
        if route.split is not None:
            place = ".".join(common(route.name.removesuffix(".weight")).split(".")[-2:])
            found.setdefault((place, parts(route.split)), None)
    return [f"{place}: {how}" for place, how in found]


def measured(job: tuple[str, str, int]) -> Row:
    """The routing of a model, in numbers; or why there is none."""
    library, name, limit = job
    row: Row = {"library": library, "name": name}

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"not built within {limit} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        model = architecture(library, name).build()
    except (Exception, TooLongError) as error:
        said = re.sub(r" from '[^']*'", "", " ".join(str(error).split()))  # where a module lies on this machine
        return {**row, "not_built": f"{type(error).__name__}: {said}"[:300]}
    finally:
        signal.alarm(0)
    gc.disable()  # as timeit does: the models before left much to collect
    begin = time.process_time()  # of this process alone, for the machine may be busy
    try:
        routing = htmuon.route(model, split="auto")
    except Exception as error:
        return {**row, "class": type(model).__name__, "fails": f"{type(error).__name__}: {error}"[:300]}
    finally:
        seconds = time.process_time() - begin
        gc.enable()
    other = routing.largest_other
    alike = [] if other is None else [r for r in routing.routes if common(r.name) == common(other.name)]
    return {
        **row,
        "class": type(model).__name__,
        "tensors": len(routing.routes),
        "parameters": routing.parameters,
        "spectral": routing.spectral_parameters,
        "largest_other": None if other is None else common(other.name),
        # All layers alike together, for a model of many layers has many parameters that are small each.
        "largest_other_parameters": sum(r.parameter.numel() for r in alike),
        "reason": None if other is None else other.reason,
        "fused": fused(routing.routes),
        "route_seconds": round(seconds, 3),
    }


def commit() -> str:
    """Of the working tree, with a mark if it has changes."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()


def stored(path: Path) -> list[Row]:
    """The rows of a file that were made at this commit."""
    lines, at = path.read_text(encoding="utf-8").splitlines() if path.exists() else [], commit()
    return [row for row in map(json.loads, lines) if row["commit"] == at]


def missing(path: Path, libraries: list[str], limit: int) -> Iterator[tuple[str, str, int]]:
    there = {(row["library"], row["name"]) for row in stored(path)}
    for library in libraries:
        yield from ((library, name, limit) for name in chosen(library) if (library, name) not in there)


def one_thread() -> None:
    torch.set_num_threads(1)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # remarks of the libraries on their defaults


def measure(path: Path, libraries: list[str], processes: int, limit: int) -> None:
    """Route what is not in the file yet, a line for each model as soon as it is done."""
    jobs = list(missing(path, libraries, limit))
    path.parent.mkdir(parents=True, exist_ok=True)
    begin, at = time.monotonic(), commit()
    with multiprocessing.get_context("spawn").Pool(processes, one_thread) as pool, path.open("a") as file:
        for number, row in enumerate(pool.imap_unordered(measured, jobs), start=1):
            file.write(json.dumps({**row, "commit": at}) + "\n")
            file.flush()
            if number % 50 == 0:
                print(f"{number} of {len(jobs)} models, {time.monotonic() - begin:.0f} s", flush=True)


def collected(path: Path, command: str) -> dict[str, Any]:
    """All rows, in order, and what they were made with."""
    versions = {library: importlib.import_module(library).__version__ for library in ("torch", *LIBRARIES)}
    rows = [{key: value for key, value in row.items() if key != "commit"} for row in stored(path)]
    rows = sorted(rows, key=lambda row: (list(LIBRARIES).index(row["library"]), row["name"]))
    return {
        "command": command,
        "versions": {"htmuon": htmuon.__version__, **versions},
        "commit": commit(),
        "date": date.today().isoformat(),
        "rows": rows,
    }


def billions(count: int) -> str:
    """A number of parameters, in short."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def head(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"Made by `{result['command']}` on {result['date']} at commit {result['commit']}, with {versions}."


def groups(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of the summary."""
    causal = [row for row in rows if row.get("class", "").endswith("ForCausalLM")]
    by_library = {library: [row for row in rows if row["library"] == library] for library in LIBRARIES}
    return {"causal language models of transformers": causal, **by_library}


def summary_table(rows: list[Row]) -> str:
    titles = ["", "models", "parameters", "on the spectral side", "`route` fails"]
    table = [[*titles, f"slowest `route`, up to {FEW_TENSORS} parameters", "slowest `route` of all"]]
    for title, of in groups(rows).items():
        routed = [row for row in of if "parameters" in row]
        if not routed:
            continue
        total, spectral = (sum(row[key] for row in routed) for key in ("parameters", "spectral"))
        small = [row for row in routed if row["tensors"] <= FEW_TENSORS]
        table.append(
            [
                title,
                str(len(routed)),
                billions(total),
                percent(spectral, total),
                str(sum("fails" in row for row in of)),
                slowest(small),
                slowest(routed),
            ]
        )
    return markdown(table)


def slowest(rows: list[Row]) -> str:
    """The longest time that `route` takes, and for which model."""
    row = max(rows, key=lambda row: row["route_seconds"])
    return f"{row['route_seconds']:.2f} s ({row['tensors']:,} parameters of {row['name']})"


def reasons_table(rows: list[Row]) -> str:
    """What the largest parameter is that takes AdamW, by how many models have such a one."""
    counts: Counter[str] = Counter(row["reason"] for row in rows if row.get("reason"))
    return markdown([["reason", "models"], *([reason, str(count)] for reason, count in counts.most_common(12))])


def table(rows: list[Row]) -> str:
    """A line for each model."""
    lines = [["model", "parameters", "spectral", "largest that is not", "why", "fused weights"]]
    for row in rows:
        if "parameters" not in row:
            continue
        shown = "; ".join(row["fused"][:FUSED_SHOWN])
        more = len(row["fused"]) - FUSED_SHOWN
        other = row["largest_other"]
        lines.append(
            [
                row["name"],
                billions(row["parameters"]),
                percent(row["spectral"], row["parameters"]),
                f"`{other}`, {percent(row['largest_other_parameters'], row['parameters'])}" if other else "",
                row["reason"] or "",
                (shown + (f"; {more} more" if more > 0 else "")).replace("*", r"\*").replace("_", r"\_"),
            ]
        )
    return markdown([[cell.replace("|", r"\|") for cell in line] for line in lines])


def left_out(rows: list[Row]) -> str:
    """What is in no table, and why."""
    unbuilt = [row for row in rows if "not_built" in row]
    part = [row for row in unbuilt if "a part of others" in row["not_built"]]
    late = [row for row in unbuilt if "not built within" in row["not_built"]]
    others = [row for row in unbuilt if row not in part and row not in late]
    fails = [row for row in rows if "fails" in row]
    lines = [
        f"{len(part)} model types of transformers are parts of others and have no model of their own.",
        f"{len(late)} took too long to build: {quoted(late)}.",
        f"{len(others)} do not build from their default configuration on the meta device: {quoted(others)}.",
        f"{len(fails)} build, and `route` fails: {quoted(fails)}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def quoted(rows: list[Row]) -> str:
    return ", ".join(f"`{row['name']}`" for row in rows) or "none"


def filled(text: str) -> str:
    """The page with every measured part made anew."""
    result = json.loads(RESULT.read_text())
    rows = result["rows"]
    text = fill(text, "head", head(result))
    text = fill(text, "summary", f"\n{summary_table(rows)}\n")
    text = fill(text, "reasons", f"\n{reasons_table(rows)}\n")
    text = fill(text, "left out", f"\n{left_out(rows)}\n")
    for library in LIBRARIES:
        text = fill(text, library, f"\n{table([row for row in rows if row['library'] == library])}\n")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "architectures.jsonl", help="a line for each model")
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=int, default=60, help="seconds for building a model (default 60)")
    parser.add_argument("--page", action="store_true", help="write the page from the stored results, measure nothing")
    arguments = parser.parse_args()
    if not arguments.page:
        measure(arguments.out, arguments.libraries, arguments.processes, arguments.limit)
        options = ("--processes", str(arguments.processes), "--limit", str(arguments.limit))
        write_json(RESULT, collected(arguments.out, shlex.join(["python", "benchmarks/architectures.py", *options])))
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
