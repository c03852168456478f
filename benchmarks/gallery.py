"""Run the examples of one process and write docs/gallery.md: what each prints, and the spectra that it records.

    python benchmarks/gallery.py

Some minutes on a CPU; it needs the extras of the trainers (`make .venv/.dev`). Pictures go to docs/images/gallery.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from htmuon.reporting.figures import Figure, Panel

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
HEAD = """# Gallery

Scripts of `examples/` as they run on a CPU, in seconds to a minute: what they are for, what they print, and, where they
record them, the spectra of their weights. `examples/fsdp2.py` needs several processes: see its head. This page is made
by `python benchmarks/gallery.py`.
"""
# What stands behind the name of a script; FOLDER is a temporary one.
EXAMPLES = {
    "drop_in": "--steps 200",
    "nano_gpt": "--steps 100 --out FOLDER",
    "monitor": "--steps 200 --out FOLDER",
    "transformers_trainer": "--steps 60 --save-every 20 --out FOLDER",
    "accelerate_loop": "--steps 60 --out FOLDER",
    "lightning_trainer": "--epochs 3 --out FOLDER",
    "timm_layer_decay": "--epochs 2",
}
LINES = 16
QUANTITIES = {"alpha_hill": "alpha (Hill)", "stable_rank": "stable rank"}


def run(name: str, arguments: str, folder: Path) -> str:
    """The last lines that a script prints."""
    words = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments.replace("FOLDER", str(folder)).split()]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = done.stdout.replace(str(folder), "FOLDER").splitlines()
    return "\n".join([*(["..."] if len(lines) > LINES else []), *lines[-LINES:]])


def means(path: Path, quantity: str) -> dict[int, float]:
    """By step, the mean over the weights that have such a number."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    weights = [record for record in records if record.get("kind") == "weights" and record.get(quantity) is not None]
    steps = sorted({record["step"] for record in weights})
    return {step: fmean(record[quantity] for record in weights if record["step"] == step) for step in steps}


def picture(paths: list[Path]) -> bytes:
    """The spectra of the weights over the steps, a line for each file of records."""

    def panel(quantity: str) -> Panel:
        def draw(ax: Axes) -> None:
            for path in paths:
                found = means(path, quantity)
                ax.plot(list(found), list(found.values()), marker="o", label=path.stem)
            ax.set(xlabel="step", ylabel=QUANTITIES[quantity])

        return Panel(title=QUANTITIES[quantity], draw=draw)

    panels = tuple(panel(quantity) for quantity in QUANTITIES)
    return Figure(name="gallery", title="", caption="", panels=panels).png()


def section(name: str, arguments: str) -> str:
    """What the page says of one script."""
    about = (ROOT / "examples" / f"{name}.py").read_text().split('"""')[1].splitlines()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        printed = run(name, arguments, folder)
        records = sorted(folder.glob("**/*.jsonl"))
        if records:
            PICTURES.mkdir(parents=True, exist_ok=True)
            (PICTURES / f"{name}.png").write_bytes(picture(records))
    shown = "".join(f"    {line}".rstrip() + "\n" for line in printed.splitlines())
    image = f"\n![Spectra of {name}](images/gallery/{name}.png)\n" if records else ""
    return f"## {name}\n\n{about}\n\n    python examples/{name}.py {arguments}\n\nprints\n\n{shown}{image}"


if __name__ == "__main__":
    PAGE.write_text("\n".join([HEAD, *(section(name, arguments) for name, arguments in EXAMPLES.items())]))
    print(PAGE)
