"""Small text in the formats of C4 and OpenWebText, and a tokenizer for it."""

import dataclasses
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import tokenizers
import torch

from htmuon.data.text.text_config import TextStreamConfig
from htmuon.data.text.text_stream import StreamedModelling
from htmuon.training.run_config import RunConfig

WORDS = ["the", "of", "and", "to", "in", "that", "it", "is", "was", "for", "on", "are", "as", "with", "his", "they"]


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(count)]


def c4_line(text: str) -> bytes:
    return json.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "http://x.org"}).encode() + b"\n"


def write_json_gz(path: Path, documents: list[str]) -> None:
    path.write_bytes(gzip.compress(b"".join(map(c4_line, documents))))


def write_c4(folder: Path) -> Path:
    """Three training shards and a validation shard, named as on the hub."""
    folder.mkdir()
    for shard in range(3):
        write_json_gz(folder / f"c4-train.{shard:05d}-of-00003.json.gz", texts(60, seed=shard))
    write_json_gz(folder / "c4-validation.00000-of-00001.json.gz", texts(40, seed=9))
    return folder


def write_openwebtext(folder: Path) -> Path:
    """Two parquet files of one column, none of them held out."""
    folder.mkdir()
    for shard in range(2):
        table = pyarrow.table({"text": texts(80, seed=shard)})
        pyarrow.parquet.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet")
    return folder


def write_tokenizer(path: Path) -> Path:
    """A word-level tokenizer that adds `</s>` as T5's does; `<|endoftext|>` is GPT-2's."""
    special = ["<pad>", "</s>", "<unk>", "<|endoftext|>"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: i for i, token in enumerate(special + WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", special.index("</s>"))]
    )
    tokenizer.save(str(path))
    return path


def path_of(data: TextStreamConfig, path: Path) -> TextStreamConfig:
    return dataclasses.replace(data, path=str(path))


def open_task(run: RunConfig, tell: Callable[[str], None] = lambda _: None) -> StreamedModelling:
    return run.data.open(run).open(torch.device("cpu"), None, tell)
