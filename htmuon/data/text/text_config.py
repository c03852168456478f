"""The settings of text: all of it in memory, or read while the model trains."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from htmuon._checks import check_text, check_whole
from htmuon._registry import unknown_name
from htmuon.training.run_config import DATA, DataConfig, RunConfig, register_kind
from htmuon.training.task import TaskKind, TaskSource

Packing = Literal["pad", "concatenate"]


class Tokens(DataConfig):
    """Text as sequences of tokens: what its two kinds of settings share."""

    task: ClassVar[TaskKind] = "language"
    targets_vary: ClassVar[bool] = True
    vocab_size: int
    sequence_length: int

    @property
    def tokens_per_example(self) -> int:
        """Tokens of one sequence, padding included."""
        return self.sequence_length

    @property
    def sizes(self) -> dict[str, int]:
        """What a language model needs to know of the text."""
        return {"vocab_size": self.vocab_size, "sequence_length": self.sequence_length}


@register_kind(DATA)
@dataclass(frozen=True, kw_only=True)
class TextConfig(Tokens):
    r"""The text of a language-model run, all of it in memory.

    Args:
        path: a text file, or a folder of `*.txt` files; "" is the State of the Union addresses inside the package.
        separator: what stands between two documents of a file (`\n` may be spelled out); not used for path "".
        vocab_size: entries of the byte-level BPE vocabulary, at least 257 (256 bytes and the end token).
        sequence_length: tokens that the model sees at once.
    """

    kind: ClassVar[str] = "text"

    path: str = ""
    separator: str = "<|endoftext|>"
    vocab_size: int = 4096
    sequence_length: int = 128

    def __post_init__(self) -> None:
        check_text("path", self.path)
        check_text("separator", self.separator)
        if not self.separator:
            raise ValueError("separator must not be empty; a blank line, for instance, is '\\n\\n'.")
        check_whole("vocab_size", self.vocab_size, 257)
        check_whole("sequence_length", self.sequence_length, 2)

    def open(self, run: RunConfig) -> TaskSource:
        """Read the text.

        Raises:
            ValueError: it cannot be read.
        """
        from htmuon.data.text.text_in_memory import LanguageSource

        return LanguageSource(run, self)


@register_kind(DATA)
@dataclass(frozen=True, kw_only=True)
class TextStreamConfig(Tokens):
    r"""Text of any size, from the Hugging Face hub or from local files; never more than a few batches are in memory.

    Args:
        path: a file or a folder of `.json`, `.jsonl`, `.parquet` and `.txt` files (all but parquet also with `.gz`) in
            place of the dataset. Those with the word val, valid, validation or test in their path below the folder are
            held out. "" reads the dataset from the hub. A seed decides the order of files, and not that within one.
        dataset: name on the hub.
        subset: of the dataset; "" if it has only one.
        revision: branch or commit of the dataset; "" is the newest.
        training_split: documents to train on.
        held_out_split: documents to evaluate on; "" takes every 16th of the others away from training, and so do local
            files of which none is held out.
        text_column: the column, or the key of a JSON object, with the text of a document.
        separator: what stands between two documents of a `.txt` file (`\n` may be spelled out).
        tokenizer: a `tokenizer.json`, a folder with one, or the name of a model on the hub that has one.
        end_token: the token that "concatenate" puts after each document; the tokenizer must know it.
        vocab_size: rows of the embeddings; every token must be below it.
        sequence_length: tokens that the model sees at once.
        packing: "concatenate" fills every sequence with documents in a row; "pad" gives each document a sequence of its
            own, cut off or filled with padding that is no target.
        evaluation_tokens: targets of an evaluation, at most.
    """

    kind: ClassVar[str] = "text-stream"

    path: str = ""
    dataset: str
    subset: str = ""
    revision: str = ""
    training_split: str = "train"
    held_out_split: str = ""
    text_column: str = "text"
    separator: str = "<|endoftext|>"
    tokenizer: str
    end_token: str
    vocab_size: int
    sequence_length: int
    packing: Packing = "concatenate"
    evaluation_tokens: int = 10_000_000

    def __post_init__(self) -> None:
        texts = (
            "path",
            "dataset",
            "subset",
            "revision",
            "training_split",
            "held_out_split",
            "text_column",
            "separator",
        )
        for name in (*texts, "tokenizer", "end_token"):
            check_text(name, getattr(self, name))
        for name in ("dataset", "training_split", "text_column", "separator", "tokenizer", "end_token"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty; leave it out for the recipe's own.")
        check_whole("vocab_size", self.vocab_size, 2)
        check_whole("sequence_length", self.sequence_length, 2)
        check_whole("evaluation_tokens", self.evaluation_tokens, 1)
        if self.packing not in get_args(Packing):
            raise unknown_name("packing", self.packing, list(get_args(Packing)))

    @property
    def name(self) -> str:
        """What messages call the text."""
        return self.path or self.dataset

    def open(self, run: RunConfig) -> TaskSource:
        """Read the text.

        Raises:
            ValueError: it cannot be read.
        """
        from htmuon.data.text.text_stream import TextStreamSource

        return TextStreamSource(run, self)
