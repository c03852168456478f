"""How fast streamed text is made into batches, against what a llama-60m step consumes.

    python benchmarks/data_loading.py [--json benchmarks/results/data_loading.json]

Writes shards in C4's format, of the text inside the package and with documents of about C4's lengths (427 tokens at
mean), trains a Unigram tokenizer of T5's kind on them, and measures

1. tokens per second of the loader alone, by packing, and its processor time for a million tokens. What a batch has in
   padding counts, as it does in a step;
2. the share of time that a short run of `llama-60m-paper` at its full widths, with AdamW, waits for data here;
3. from 1., up to which speed of a GPU on this model the loader keeps pace: 6 x parameters operations for each token.
"""

import argparse
import gzip
import json
import lzma
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import tokenizers
import torch
from timing import conditions, write

from htmuon.compare.run_record import RunRecord
from htmuon.data.text.corpus import EMBEDDED_SEPARATOR
from htmuon.data.text.text_config import TextStreamConfig
from htmuon.recipes import RECIPES
from htmuon.training.run_config import OptimizerConfig, RunConfig
from htmuon.training.run_result import Observer
from htmuon.training.train import train

RECIPE = "llama-60m-paper"
SHARDS, DOCUMENTS = 4, 12_000
VOCABULARY = 16_000
BATCHES = 60
STEPS, BATCH_SIZE = 10, 4


def documents() -> Iterator[str]:
    """Pieces of addresses with the spread of lengths that web pages have, 2,200 characters at mean."""
    packed = (files("htmuon.data.text") / "embedded" / "sotu.train.txt.xz").read_bytes()
    text = lzma.decompress(packed).decode().replace(EMBEDDED_SEPARATOR, "\n")
    draw = random.Random(0)
    for _ in range(DOCUMENTS):
        length = int(min(20_000, max(100, draw.lognormvariate(7.2, 1.0))))
        start = draw.randrange(len(text) - length)
        yield text[start : start + length]


def write_shards(folder: Path) -> list[str]:
    texts = list(documents())
    for shard in range(SHARDS):
        name = f"c4-train.{shard:05d}-of-{SHARDS:05d}.json.gz"
        lines = (
            json.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"})
            for text in texts[shard::SHARDS]
        )
        (folder / name).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 5))
    return texts


def write_tokenizer(path: Path, texts: list[str]) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts[:1000], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))


def loading(config: RunConfig) -> dict[str, Any]:
    """Tokens per second of the loader alone, after its first batch."""
    task = config.data.open(config).open(torch.device("cpu"), Path(), print)
    task.fetch(0)
    began, work, targets = time.perf_counter(), time.process_time(), 0
    for index in range(1, BATCHES):
        targets += int((task.fetch(index)[1] >= 0).sum())
    seconds, work = time.perf_counter() - began, time.process_time() - work
    tokens = (BATCHES - 1) * config.batch_size * config.data.tokens_per_example
    return {
        "tokens_per_second": tokens / seconds,
        "processor_seconds_per_million_tokens": 1e6 * work / tokens,
        "share_of_padding": 1 - targets / tokens,
    }


class Enough(Exception):  # noqa: N818  # it is no error
    """A run has done `STEPS` steps."""


class Leaver(Observer):
    """Leaves a run after `STEPS` steps: the spectra at its end would take longer than they."""

    def on_step(self, step: int, loss: float, seconds: float) -> None:
        if step == STEPS:
            raise Enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "data_loading.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "c4").mkdir()
        texts = write_shards(folder / "c4")
        write_tokenizer(folder / "tokenizer.json", texts)
        config = RECIPES[RECIPE]()
        assert isinstance(config.data, TextStreamConfig)
        local = {"path": str(folder / "c4"), "tokenizer": str(folder / "tokenizer.json"), "evaluation_tokens": 2000}
        config = replace(config, data=replace(config.data, **local))
        loader = {
            packing: loading(replace(config, data=replace(config.data, packing=packing)))
            for packing in ("pad", "concatenate")
        }
        # AdamW, because its steps are the shortest and ask most of the loader.
        optimizer = OptimizerConfig(name="adamw", lr=1e-3)
        changes = {"batch_size": BATCH_SIZE, "accumulation": 1, "log_interval": 1, "monitor_every": None}
        short = replace(config, optimizer=optimizer, **changes)
        with suppress(Enough):
            train(short, folder / "run", Leaver())
        record = RunRecord(folder / "run")
        waited, taken = (record.curve("train", name).values for name in ("data_seconds", "seconds_per_step"))
        with torch.device("meta"):
            parameters = sum(
                p.numel() for p in config.model.build_model(**config.data.sizes, seed=config.seed).parameters()
            )
    operations = 6 * parameters
    for found in loader.values():
        found["enough_for_tflops"] = found["tokens_per_second"] * operations / 1e12
    run = {
        "recipe": RECIPE,
        "optimizer": "adamw",
        "parameters": parameters,
        "batch_size": BATCH_SIZE,
        "steps": STEPS,
        "tokens_per_second": STEPS * short.tokens_per_step / sum(taken),
        # The first batch is waited for: nothing is made before the run begins.
        "share_of_waiting_after_the_first_step": sum(waited[1:]) / sum(taken[1:]),
        "seconds_until_the_first_batch": waited[0],
    }
    about = {"documents": DOCUMENTS, "characters_per_document": sum(map(len, texts)) / DOCUMENTS}
    write(arguments.json, {**conditions(), "text": about, "loader": loader, "run": run})
    for packing, found in loader.items():
        print(
            f"{packing}: {found['tokens_per_second']:,.0f} tokens/s, "
            f"{found['processor_seconds_per_million_tokens']:.2f} s of processor time for a million, enough for a GPU "
            f"that does {found['enough_for_tflops']:.0f} TFLOP/s on {RECIPE}"
        )
    print(
        f"a step here consumes {run['tokens_per_second']:,.0f} tokens/s and waits "
        f"{100 * run['share_of_waiting_after_the_first_step']:.2f} % of its time for data"
    )


if __name__ == "__main__":
    main()
