"""How stacked experts store their matrices, asked of the experts themselves: a row is changed, the output answers."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from htmuon.routing.experts import STORED
from htmuon.routing.storage import stored
from htmuon.routing.views import matrix_view
from tests.stored_parts import rows_of_parts

EXPERTS, HIDDEN, INNER = 4, 24, 20


class Tiny:
    """A config of few experts, whatever a class calls its sizes."""

    _experts_implementation = "eager"

    def __getattr__(self, name):
        answers = (
            (r".*(act|activation).*", "silu"),
            (r"(num|n)_.*expert.*|moe_num_experts", EXPERTS),
            (r".*(intermediate|ffn).*size.*|expert_ffn_hidden_size", INNER),
            (r"hidden_size|d_model|moe_hidden_size", HIDDEN),
            (r".*(limit|softcap).*", 100.0),
            (r".*alpha.*", 1.7),
            (r".*eps", 1e-6),
            (r"moe_latent_size", None),
        )
        for pattern, answer in answers:
            if re.fullmatch(pattern, name):
                return answer
        raise AttributeError(name)


def flagged():
    """The classes of transformers that say themselves how they store experts, by their source."""
    import transformers.models

    for path in sorted(Path(transformers.models.__path__[0]).glob("*/modeling_*.py")):
        source = path.read_text()
        for found in re.finditer(r"@use_experts_implementation[^\n]*\nclass (\w+)\(", source):
            yield f"transformers.models.{path.parent.name}.{path.stem}", found.group(1)


def built(module, name):
    torch.manual_seed(0)
    experts = getattr(importlib.import_module(module), name)(Tiny())
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts


def answer(experts, expert, inputs):
    """What one expert makes of the inputs."""
    chosen = torch.full((len(inputs), 1), expert)
    return experts(inputs, chosen, torch.ones(len(inputs), 1, dtype=inputs.dtype)).detach()


def changes(experts, weight, view, expert, row, ask):
    """By how much the answer moves, when one row of one matrix moves by one and by two steps."""
    matrix = matrix_view(weight.detach(), view)[expert]
    before, kept = ask(), matrix[row].clone()
    moved = []
    for step in (1.0, 2.0):
        matrix[row] = kept + 0.1 * step
        moved.append(ask() - before)
    matrix[row] = kept
    return moved


def check_last_layer(experts, weight, ask):
    """A row of the last matrix is one feature of what its expert answers, and moves nothing of other experts."""
    found = stored(experts, weight)
    parameter = getattr(experts, weight)
    assert found.split is None
    for row in (0, HIDDEN - 1):
        one, _ = changes(experts, parameter, found.view, 1, row, lambda: ask(1))
        assert one[:, row].abs().min() > 0
        assert torch.equal(one.nonzero()[:, 1].unique(), torch.tensor([row]))
        elsewhere, _ = changes(experts, parameter, found.view, 1, row, lambda: ask(2))
        assert not elsewhere.any()


def check_first_layers(experts, weights, last, ask):
    """Row j of each part moves the answer along column j of the last matrix: in proportion in one part, in one not."""
    columns = matrix_view(getattr(experts, last).detach(), stored(experts, last).view)[1]
    in_proportion = []
    for weight in weights:
        found = stored(experts, weight)
        parameter = getattr(experts, weight)
        rows = matrix_view(parameter, found.view).shape[-2]
        for part in rows_of_parts(found.split, rows):
            straight = set()
            for unit in (0, 1, INNER - 1):
                one, two = changes(experts, parameter, found.view, 1, part[unit], lambda: ask(1))
                along = torch.outer(one @ columns[:, unit] / columns[:, unit].square().sum(), columns[:, unit])
                assert one.abs().max() > 0
                # Sums of twenty terms in float64.
                torch.testing.assert_close(one, along, rtol=1e-9, atol=1e-11)
                straight.add(torch.allclose(two, 2 * one, rtol=1e-6, atol=1e-9))
            assert len(straight) == 1
            in_proportion += straight
    return in_proportion


FLAGGED = list(flagged())


def test_there_are_classes_with_flags():
    assert len(FLAGGED) > 60


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), FLAGGED, ids=[name for _, name in FLAGGED])
def test_experts_that_carry_flags(module, name):
    check(built(module, name).double())


@pytest.mark.parametrize("name", ["MixtralExperts", "AriaExperts", "GptOssExperts", "NemotronHExperts"])
def test_each_kind_of_flags(name):
    [(module, _)] = [found for found in FLAGGED if found[1] == name]
    check(built(module, name).double())


def check(experts):
    inputs = torch.randn(5, HIDDEN, dtype=torch.float64)

    def ask(expert):
        return answer(experts, expert, inputs)

    check_last_layer(experts, "down_proj", ask)
    gated = hasattr(experts, "gate_up_proj")
    straight = check_first_layers(experts, ["gate_up_proj" if gated else "up_proj"], "down_proj", ask)
    # The gate goes through a nonlinearity, up does not; without a gate up goes through it.
    assert sorted(straight) == ([False, True] if gated else [False])
    for name, parameter in experts.named_parameters():
        if parameter.ndim == 2:
            assert stored(experts, name) is None
