"""transformers' Trainer takes the steps of a plain loop, resumes to the bit, and logs both rates and the spectra."""

import json

import pytest
import torch

pytest.importorskip("accelerate")

from integrations.language import RATES, equal, language_model, sentences
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler

import htmuon
from htmuon.integrations.transformers import MonitorCallback, factory, log_rates

STEPS, WARMUP = 6, 2


class Stop(TrainerCallback):
    """As a kill does, between two checkpoints."""

    def on_step_end(self, args, state, control, **parts):
        control.should_training_stop = state.global_step == STEPS - 1


def trainer_in(folder, *callbacks, optimizer=htmuon.HTMuon, seen=None, **settings):
    def collated(rows):
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        if seen is not None:
            seen.append(batch)
        return batch

    lengths = {"max_steps": STEPS, "warmup_steps": WARMUP, "per_device_train_batch_size": 4}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "save_steps": 4}
    return Trainer(
        language_model(),
        TrainingArguments(output_dir=str(folder), **lengths, **quiet),
        train_dataset=sentences(),
        data_collator=collated,
        optimizer_cls_and_kwargs=(factory(optimizer), {**RATES, **settings}),
        callbacks=list(callbacks),
    )


@pytest.mark.parametrize("name", htmuon.OPTIMIZERS)
def test_it_takes_the_steps_of_a_loop(name, tmp_path):
    batches = []
    trainer = trainer_in(tmp_path, optimizer=htmuon.OPTIMIZERS[name], seen=batches, weight_decay=0.05)
    trainer.train()
    model = language_model()
    optimizer = htmuon.OPTIMIZERS[name].for_model(model, **RATES, weight_decay=0.05)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS)
    losses = []
    for batch in batches[:STEPS]:
        # The sum over the words, divided by their number: another rounding than that of the mean.
        words = torch.tensor(batch["labels"][:, 1:].numel())
        loss = model(**batch, num_items_in_batch=words).loss
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    assert [row["loss"] for row in trainer.state.log_history if "loss" in row] == losses
    assert equal(trainer.model, model)


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    records = [folder.with_suffix(".jsonl") for folder in (whole, halves)]
    uninterrupted = trainer_in(whole, MonitorCallback(every=1, path=records[0]))
    uninterrupted.train()
    trainer_in(halves, MonitorCallback(every=1, path=records[1]), Stop()).train()
    resumed = trainer_in(halves, MonitorCallback(every=1, path=records[1]))
    resumed.train(resume_from_checkpoint=str(halves / "checkpoint-4"))
    assert equal(uninterrupted.model, resumed.model)
    assert records[0].read_text() == records[1].read_text()
    steps = {json.loads(line)["step"] for line in records[0].read_text().splitlines()}
    assert steps == set(range(STEPS + 1))


class Rule(TrainerCallback):
    """As the one in docs/integrations.md."""

    def on_train_begin(self, args, state, control, optimizer, **parts):
        for group in optimizer.param_groups:
            if group["use_muon"]:
                group["rate_rule"] = "alignment"


def test_a_rule_that_was_chosen_after_a_checkpoint_can_be_kept(tmp_path):
    trainer_in(tmp_path).train()
    resumed = trainer_in(tmp_path, Rule(), rate_rule="alignment")
    with pytest.warns(UserWarning, match="brings rate_rule=None in place of 'alignment'"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    matrices = [p for group in resumed.optimizer.param_groups if group["use_muon"] for p in group["params"]]
    assert matrices
    assert all(resumed.optimizer.state[p]["log_rate"] != 0 for p in matrices)


def test_the_monitor_changes_nothing_and_stops_with_the_run(tmp_path):
    watching = MonitorCallback(every=1)
    watched, alone = trainer_in(tmp_path, watching), trainer_in(tmp_path)
    watched.train()
    alone.train()
    assert equal(watched.model, alone.model)
    assert {record["kind"] for record in watching.monitor.latest} == {"weights", "momentum", "updates"}
    optimizer = watched.optimizer.optimizer
    assert isinstance(optimizer, htmuon.HTMuon)
    for parameter in watched.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert watching.monitor.step == STEPS


def test_both_rates_are_logged_for_all_that_report(tmp_path):
    reported = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **parts):
            reported.append(dict(logs))

    trainer = trainer_in(tmp_path, Tracker())
    log_rates(trainer)
    trainer.train()
    # Linear up to the rate in two steps, and down to zero in the other four.
    factors = [0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4]
    for rows in (reported, trainer.state.log_history):
        rates = [(row["learning_rate"], row["adamw_learning_rate"]) for row in rows if "loss" in row]
        expected = [(factor * 0.02, factor * 0.003) for factor in factors]
        assert [x for pair in rates for x in pair] == pytest.approx([x for pair in expected for x in pair])


def test_a_model_without_other_parameters_has_one_rate(tmp_path):
    trainer = trainer_in(tmp_path)
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_("proj" in name)
    log_rates(trainer)
    trainer.train()
    assert not any("adamw_learning_rate" in row for row in trainer.state.log_history)


@pytest.mark.parametrize("wrong", [torch.optim.AdamW, "htmuon", htmuon.HTMuon.for_model])
def test_a_factory_is_of_an_optimizer_of_this_library(wrong):
    with pytest.raises(TypeError, match=r"must be a class of htmuon.OPTIMIZERS; got .* Pass htmuon.HTMuon"):
        factory(wrong)


def test_both_rates_are_asked_for(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.optimizer_cls_and_kwargs = (factory(htmuon.HTMuon), {"lr": 0.02})
    with pytest.raises(TypeError, match="adamw_lr"):
        trainer.train()
