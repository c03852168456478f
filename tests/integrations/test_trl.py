"""TRL's trainers are transformers' own: a whole model and an adapter train by the same factory."""

import pytest

for library in ("accelerate", "trl", "peft"):
    pytest.importorskip(library)

import datasets
from integrations.language import RATES, WORDS, language_model, sentences
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import htmuon
from htmuon.integrations.transformers import MonitorCallback, factory, log_rates


def tokenizer():
    words = Tokenizer(models.WordLevel({str(word): word for word in range(WORDS)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", bos_token="1", eos_token="2", unk_token="0")


# What TRL 1.16 passes to transformers 5.23 by default.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(
    "adapter", [None, LoraConfig(r=4, target_modules=["q_proj", "up_proj"])], ids=["whole", "lora"]
)
def test_supervised_fine_tuning(adapter, tmp_path):
    lengths = {"max_steps": 4, "per_device_train_batch_size": 4, "max_length": 16}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "bf16": False}
    watching = MonitorCallback(every=2)
    trainer = SFTTrainer(
        language_model(),
        SFTConfig(output_dir=str(tmp_path), **lengths, **quiet),
        train_dataset=datasets.Dataset.from_list(
            [{"text": " ".join(map(str, s["input_ids"].tolist()))} for s in sentences()]
        ),
        processing_class=tokenizer(),
        optimizer_cls_and_kwargs=(factory(htmuon.HTMuon), RATES),
        callbacks=[watching],
        peft_config=adapter,
    )
    log_rates(trainer)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    matrices = {name for group in trainer.optimizer.param_groups if group["use_muon"] for name in group["param_names"]}
    moved = {name for name, p in trainer.model.named_parameters() if not p.equal(before[name])}
    if adapter is None:
        assert moved == set(before)
        assert len(matrices) == 2 * 7
        assert all(name.endswith("proj.weight") for name in matrices)
    else:
        # Two factors at each of two layers' two projections; the model itself is frozen.
        assert moved == matrices
        assert len(matrices) == 8
        assert all(".lora_A." in name or ".lora_B." in name for name in matrices)
    assert {record["name"] for record in watching.monitor.latest} <= matrices
    assert trainer.state.log_history[-1]["train_loss"] < 4.3
