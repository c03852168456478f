"""The tokens of a run, cached on disk so that all runs of a comparison train on the same ones."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from htmuon._files import (
    DamagedFolderError,
    one_at_a_time,
    read_tensors,
    sealed_folder,
    temporary_name,
    verify_sealed_folder,
    write_tensors,
)
from htmuon.data.held_back import held_back
from htmuon.data.text.corpus import SplitDocuments, fingerprint, split_documents
from htmuon.data.text.text_config import TextConfig
from htmuon.data.text.tokenizers import END_TOKEN, encode, train_tokenizer
from htmuon.training.run_config import DataSplit

TOKENS = "tokens.safetensors"
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizedText:
    """The tokens by use, int32. Every document ends with the end token.

    Args:
        training: all training documents in a row, `[tokens]`.
        held_out: the documents for validation and for test, each `[tokens]`.
    """

    training: Tensor
    held_out: dict[DataSplit, list[Tensor]]

    def of(self, split: DataSplit) -> tuple[Tensor, list[Tensor]]:
        """The tokens to train on and the documents to evaluate on."""
        if split != "confirmation":
            return self.training, self.held_out[split]
        ends = (self.training == END_TOKEN).nonzero().flatten() + 1
        documents = torch.tensor_split(self.training, ends[:-1].tolist())
        back = held_back(len(documents)).tolist()
        kept = [document for document, is_back in zip(documents, back, strict=True) if not is_back]
        return torch.cat(kept), [document for document, is_back in zip(documents, back, strict=True) if is_back]


def prepare_tokens(
    files: dict[str, bytes], config: TextConfig, root: Path, on_message: Callable[[str], None]
) -> TokenizedText:
    """Read the tokens of a text from `root`/data-<fingerprint>, or make them and store them there.

    Args:
        files: from `read_files(config.path)`.
        config: the settings.
        root: the folder for the cache; made if it does not exist.
        on_message: called with a sentence when a damaged cache is made anew.

    Raises:
        ValueError: the text is not usable; see `split_documents`.
        OSError: the cache cannot be written.
    """
    folder = root / f"data-{fingerprint(files, config)}"
    if folder.exists():
        try:
            return _load(folder)
        except DamagedFolderError as error:
            on_message(f"{error}; the tokens are made anew.")
    split = split_documents(files, config)
    root.mkdir(parents=True, exist_ok=True)
    # Of processes that need the same tokens at the same time, one makes them and the others wait.
    with one_at_a_time(root / f".{folder.name}.lock"):
        _discard_if_damaged(folder)
        if not folder.exists():
            _store(split, config, folder)
    return _load(folder)


def _store(split: SplitDocuments, config: TextConfig, folder: Path) -> None:
    tokenizer = train_tokenizer(split.training, config.vocab_size)
    tensors = {"training": torch.cat(encode(tokenizer, split.training))}
    for name, documents in (("validation", split.validation), ("test", split.test)):
        encoded = encode(tokenizer, documents)
        tensors[name] = torch.cat(encoded)
        tensors[f"{name}_lengths"] = torch.tensor([len(tokens) for tokens in encoded])
    try:
        with sealed_folder(folder) as new:
            tokenizer.save(str(new / TOKENIZER))
            write_tensors(new / TOKENS, tensors)
    except OSError:
        # A process of another machine may have stored the same tokens first: then its folder is the one that all use.
        if not folder.exists():
            raise


def _load(folder: Path) -> TokenizedText:
    verify_sealed_folder(folder)
    tensors = read_tensors(folder / TOKENS)
    if "validation" not in tensors:
        raise DamagedFolderError(f"{folder} was written by a version before 0.1.0")

    def documents(name: DataSplit) -> list[Tensor]:
        lengths: Sequence[int] = tensors[f"{name}_lengths"].tolist()
        return list(torch.split(tensors[name], list(lengths)))

    return TokenizedText(
        training=tensors["training"], held_out={"validation": documents("validation"), "test": documents("test")}
    )


def _discard_if_damaged(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        verify_sealed_folder(folder)
    except DamagedFolderError:
        # The move is one step, so that no process sees half of a folder.
        doomed = folder.replace(temporary_name(folder))
        shutil.rmtree(doomed)
