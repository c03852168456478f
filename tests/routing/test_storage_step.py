"""One step of models with stacked and fused weights: each matrix moves as it would alone."""

import pytest
import torch
from torch import nn

import htmuon
from tests.stored_parts import rows_of_parts

TEXT = {
    "vocab_size": 64,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 6,
}
KINDS = ["mixtral", "gpt_oss", "phi3", "gpt_neox", "gpt2", "mamba", "deberta", "llama4_text"]


def matrices(parameter, values, route):
    """The matrices [out, in] of a parameter's values, one after the other."""
    stack = htmuon.matrix_view(values, route.view)
    parts = rows_of_parts(route.split, stack.shape[-2])
    return [each for rows in parts for each in stack[..., list(rows), :].reshape(-1, len(rows), stack.shape[-1])]


def check_step(model, loss):
    loss.backward()
    routing = htmuon.route(model, split="auto")
    spectral = [route for route in routing.routes if route.view is not None and route.parameter.grad is not None]
    before = {route.name: route.parameter.detach().clone() for route in spectral}
    settings = {"lr": 0.02, "weight_decay": 0.0, "method": "svd"}
    optimizer = htmuon.HTMuon(htmuon.param_groups(model, split="auto"), **settings)
    optimizer.step()
    counted = 0
    for route in spectral:
        moved = matrices(route.parameter, route.parameter.detach() - before[route.name], route)
        grads = matrices(route.parameter, route.parameter.grad, route)
        starts = matrices(route.parameter, before[route.name], route)
        alone = [nn.Parameter(start.clone()) for start in starts]
        for weight, grad in zip(alone, grads, strict=True):
            weight.grad = grad.clone()
        htmuon.HTMuon([{"params": alone}], **settings).step()
        for weight, start, move in zip(alone, starts, moved, strict=True):
            # Differences of weights of size 0.1 in float32; a step is 0.02 of a matrix of singular values one.
            torch.testing.assert_close(move, weight.detach() - start, rtol=1e-3, atol=1e-5)
            counted += 1
    assert counted > len(spectral)
    return {route.name.rpartition(".")[0].rpartition(".")[2]: route.split for route in spectral}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_matrix_of_a_language_model_moves_as_it_would_alone(kind):
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIG_MAPPING[kind](**TEXT), attn_implementation="eager")
    check_step(model, model(input_ids=torch.arange(3, 12)[None])[0].square().sum())


def test_each_group_and_gate_moves_as_it_would_alone():
    torch.manual_seed(0)
    stem, head = nn.Conv1d(3, 8, 1), nn.Linear(6, 2)
    model = nn.ModuleDict(
        {"stem": stem, "grouped": nn.Conv1d(8, 16, 3, groups=4), "memory": nn.LSTM(16, 6), "head": head}
    )
    hidden = model["grouped"](model["stem"](torch.randn(2, 3, 9))).permute(2, 0, 1)
    splits = check_step(model, model["head"](model["memory"](hidden)[0]).square().sum())
    assert splits["grouped"] == 4
    assert splits["memory"] == 4
