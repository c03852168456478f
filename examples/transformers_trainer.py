"""HTMuon in the Trainer of transformers: a small LLaMA over bytes learns the text inside the package.

    python examples/transformers_trainer.py --steps 100 --out runs/trainer
    python examples/transformers_trainer.py --steps 100 --out runs/trainer --resume

It needs transformers and accelerate (`pip install ".[transformers]"`). The optimizer is one line, spectra and the
second learning rate one each. A killed run resumes from its last checkpoint, as if it had never stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import htmuon
from htmuon.data.text import TextConfig
from htmuon.data.text.corpus import read_files, split_documents
from htmuon.integrations.transformers import MonitorCallback, factory, log_rates

BYTES, CONTEXT = 256, 64


def windows() -> list[dict[str, torch.Tensor]]:
    """Pieces of the training text, as bytes."""
    documents = split_documents(read_files(""), TextConfig()).training
    data = torch.frombuffer(bytearray("\n\n".join(documents), "utf-8"), dtype=torch.uint8).long()
    return [{"input_ids": piece, "labels": piece} for piece in data[: 4096 * CONTEXT].split(CONTEXT)]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Train, and return what was logged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/trainer"))
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    parser.add_argument("--optimizer", default="HTMuon", choices=["HTMuon", "Muon", "HTNorMuon", "NorMuon"])
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}  # bytes that no text has
    model = LlamaForCausalLM(LlamaConfig(vocab_size=BYTES, max_position_embeddings=CONTEXT, **sizes, **special))
    settings = TrainingArguments(
        output_dir=str(given.out),
        max_steps=given.steps,
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        warmup_steps=given.steps // 10,
        logging_steps=10,
        save_steps=given.save_every,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )
    trainer = Trainer(
        model,
        settings,
        train_dataset=windows(),
        optimizer_cls_and_kwargs=(factory(getattr(htmuon, given.optimizer)), {"lr": 0.02, "adamw_lr": 3e-3}),
        callbacks=[MonitorCallback(every=given.save_every, path=given.out / "spectra.jsonl")],
    )
    log_rates(trainer)
    trainer.train(resume_from_checkpoint=given.resume)
    return trainer.state.log_history


if __name__ == "__main__":
    main()
