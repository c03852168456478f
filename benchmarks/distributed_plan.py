"""Who computes what, and what travels, in one step on many ranks: counted from the plan, without any rank.

    python benchmarks/distributed_plan.py                      the table of docs/distributed.md
    python benchmarks/distributed_plan.py llama-1b --ranks 8   one model

Counts are those of the ledger that a step keeps (htmuon/layouts/base.py): multiplications of the bracket and bytes of
float32 that a rank sends for matrices under `fully_shard` (each matrix once to its owner, its update once back) or with
`process_group=` (each update from its owner to all others).
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from page_parts import fill, markdown

from htmuon.bench.shapes import Shape, known_models, model_matrices
from htmuon.layouts import LoadBalancer

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "distributed_plan.json"
PAGE = ROOT / "docs" / "distributed.md"
# Meta's LLaMA 2 70B: 80 layers, width 8192, 8 key-value heads of 128, MLP 28672.
LLAMA_70B = (Shape(8192, 8192, 160), Shape(1024, 8192, 160), Shape(28672, 8192, 160), Shape(8192, 28672, 80))
BYTES = 4


@dataclass(frozen=True)
class Group:
    """So many ranks, of which a ledger asks the number alone."""

    ranks: int

    def size(self) -> int:
        return self.ranks


@dataclass(frozen=True)
class Plan:
    """One step of one model.

    Attributes:
        model: its name.
        layout: `fsdp` or `ddp`.
        ranks: how many.
        matrices: how many.
        elements: of all matrices.
        products: multiplications of all brackets, in units of `elements times short side`.
        largest_share: of the rank that has most to do, relative to `products / ranks`.
        sent: bytes that the rank that sends most sends.
        published: bytes that the published scheme sends on average: each matrix to its owner and back.
    """

    model: str
    layout: str
    ranks: int
    matrices: int
    elements: int
    products: float
    largest_share: float
    sent: float
    published: float


def plan(model: str, shapes: tuple[Shape, ...], layout: str, ranks: int) -> Plan:
    """The plan of a step: the dearest stacks first, as a step takes them."""
    ledger, group = LoadBalancer(), Group(ranks)
    work, sent = [0.0] * ranks, [0.0] * ranks
    for shape in sorted(shapes, key=lambda shape: -cost(shape)):
        elements = shape.rows * shape.columns
        owned = Counter(ledger.owners(group, shape.count, cost(shape)))  # type: ignore[arg-type]
        for rank in range(ranks):
            own = owned[rank]
            work[rank] += own * cost(shape)
            if layout == "fsdp":  # slices to the owners of the others, and slices of its own updates back
                sent[rank] += BYTES * elements / ranks * ((shape.count - own) + own * (ranks - 1))
            else:  # its own updates to every other rank
                sent[rank] += BYTES * elements * own * (ranks - 1)
    elements = sum(shape.rows * shape.columns * shape.count for shape in shapes)
    return Plan(
        model=model,
        layout=layout,
        ranks=ranks,
        matrices=sum(shape.count for shape in shapes),
        elements=elements,
        products=sum(work),
        largest_share=max(work) / (sum(work) / ranks),
        sent=max(sent),
        published=2 * BYTES * elements / ranks * (ranks - 1) / ranks,
    )


def cost(shape: Shape) -> float:
    return float(shape.rows * shape.columns * min(shape.rows, shape.columns))


def table(plans: list[Plan]) -> str:
    rows = [
        ["model", "layout", "ranks", "matrices", "products of the busiest rank", "sent by a rank", "published scheme"]
    ]
    for p in plans:
        published = f"{p.published / 1e9:.3g} GB" if p.layout == "fsdp" else ""
        rows.append(
            [
                p.model,
                p.layout,
                f"{p.ranks}",
                f"{p.matrices}",
                f"{p.largest_share:.2f}x the fair share",
                f"{p.sent / 1e9:.3g} GB",
                published,
            ]
        )
    return markdown(rows)


def filled(text: str) -> str:
    """The page with its table made anew."""
    plans = [Plan(**entry) for entry in json.loads(RESULT.read_text())]
    return fill(text, "plan", f"\n{table(plans)}\n\nCounted by `python benchmarks/distributed_plan.py`.\n")


def shapes_of(name: str) -> tuple[Shape, ...]:
    return LLAMA_70B if name == "llama-70b" else model_matrices(name).shapes


def planned() -> list[Plan]:
    """The rows of the page."""
    wanted = [("llama-60m", "ddp", 4), ("llama-60m", "fsdp", 4), ("llama-350m", "fsdp", 8), ("llama-1b", "fsdp", 8)]
    wanted += [("llama-1b", "fsdp", 64), ("llama-70b", "fsdp", 256)]
    return [plan(name, shapes_of(name), layout, ranks) for name, layout, ranks in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=[*known_models(), "llama-70b"])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--layout", choices=["fsdp", "ddp"], default="fsdp")
    arguments = parser.parse_args()

    if arguments.model:
        print(table([plan(arguments.model, shapes_of(arguments.model), arguments.layout, arguments.ranks)]))
        return
    plans = planned()
    RESULT.write_text(json.dumps([asdict(p) for p in plans], indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text()))
    print(table(plans))


if __name__ == "__main__":
    main()
