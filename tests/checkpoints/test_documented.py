"""What docs/analyze.md says about `htmuon analyze` is what was measured."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_memory_and_time_of_a_large_checkpoint():
    measured = json.loads((ROOT / "benchmarks" / "results" / "analyze_memory.json").read_text())
    text = " ".join((ROOT / "docs" / "analyze.md").read_text().split())
    assert (
        f"a checkpoint of {measured['parameters'] / 1e9:.2f} billion bfloat16 parameters took "
        f"{measured['peak_bytes'] / 2**30:.2f} GiB at the highest and {measured['seconds']:.0f} s" in text
    )
    assert measured["peak_bytes"] < 8 * 2**30
