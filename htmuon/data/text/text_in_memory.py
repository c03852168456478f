"""A language-model run, seen by the trainer: a network, a training loss, an evaluation."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from htmuon.data.text.corpus import fingerprint, read_files
from htmuon.data.text.next_token import TrainingBatches, evaluation_windows, held_out_loss, training_loss
from htmuon.data.text.text_config import TextConfig
from htmuon.data.text.token_cache import TokenizedText, prepare_tokens
from htmuon.training.run_config import RunConfig
from htmuon.training.task import Batch, Evaluation, IndexedTask


class LanguageSource:
    """The text of a run.

    Args:
        config: the settings of the run.
        data: its text.

    Raises:
        ValueError: the text cannot be read.
    """

    libraries = ("transformers", "tokenizers", "safetensors")

    def __init__(self, config: RunConfig, data: TextConfig) -> None:
        self.config, self.data = config, data
        self.files = read_files(data.path)
        self.fingerprint = fingerprint(self.files, data)

    def build_model(self) -> torch.nn.Module:
        """The network with its initial weights, on the CPU; equal settings and seeds give equal weights."""
        return self.config.model.build_model(**self.data.sizes, seed=self.config.seed)

    def open(self, device: torch.device, cache: Path, on_message: Callable[[str], None]) -> "LanguageModelling":
        """The task, with its tokens on `device`; they are kept in `cache`.

        Raises:
            ValueError: the text is not usable, or the cache cannot be written.
        """
        try:
            text = prepare_tokens(self.files, self.data, cache, on_message)
        except OSError as error:
            raise ValueError(
                f"{cache} must be a folder that can be written, for the tokenized text; got: {error}."
            ) from error
        return LanguageModelling(self.config, self.data, text, device)


class LanguageModelling(IndexedTask):
    """Next-token prediction.

    Args:
        config: the settings of the run.
        data: its text.
        text: its tokens.
        device: where batches are made.

    Raises:
        ValueError: the training tokens do not fill one batch.
    """

    def __init__(self, config: RunConfig, data: TextConfig, text: TokenizedText, device: torch.device) -> None:
        length = data.sequence_length
        training, held_out = text.of(config.split)
        self.batch_size = config.batch_size
        self.unreadable: list[str] = []
        self.batches = TrainingBatches(
            training.to(device), sequence_length=length, batch_size=config.batch_size, seed=config.seed
        )
        windows = evaluation_windows(held_out, length)
        self.inputs, self.targets = (part.to(device) for part in windows)
        # The loss of a uniform guess, less what a mean of float32 logarithms can be off.
        self.chance_loss = math.log(data.vocab_size) - 1e-3

    def fetch(self, index: int) -> Batch:
        """Inputs and targets `[batch_size, sequence_length]` of training batch number `index`."""
        return self.batches[index]

    def training_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Mean loss in nats per token, 0-d, of a batch."""
        return training_loss(model, batch)

    def evaluate(self, model: torch.nn.Module) -> Evaluation:
        """The loss on the held-out documents."""
        return Evaluation(self.held_out_loss(model))

    def held_out_loss(self, model: torch.nn.Module) -> float:
        """Mean loss in nats over every token of the held-out documents; each token counts once and equally."""
        device = self.inputs.device
        return held_out_loss(model, self.inputs, self.targets, batch_size=self.batch_size, device=device)
