"""How stacked experts store their matrices, asked of the experts themselves: a row is changed, the output answers."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers.models
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
            (r".*(limit|softcap).*", 1e4),
            (r".*alpha.*", 1.7),
            (r".*eps", 1e-6),
            (r"n_shared_experts", EXPERTS),
            (r"moe_latent_size|zero_expert_num", None),
        )
        for pattern, answer in answers:
            if re.fullmatch(pattern, name):
                return answer
        raise AttributeError(name)


SOURCES = sorted(Path(transformers.models.__path__[0]).glob("*/modeling_*.py"))


def flagged():
    """The classes of transformers that say themselves how they store experts, by their source."""
    for path in SOURCES:
        source = path.read_text()
        for found in re.finditer(r"@use_experts_implementation[^\n]*\nclass (\w+)\(", source):
            yield f"transformers.models.{path.parent.name}.{path.stem}", found.group(1)


def built(module, name):
    torch.manual_seed(0)
    experts = getattr(importlib.import_module(module), name)(Tiny())
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    if hasattr(experts, "post_expert_norm"):  # would mix the features that are told apart here
        experts.post_expert_norm = nn.Identity()
    return experts.double()


def answer(experts, expert, inputs):
    """What one expert makes of the inputs; a second one is chosen with the weight zero."""
    chosen = torch.tensor([[expert, (expert + 1) % EXPERTS]]).expand(len(inputs), 2)
    weights = torch.tensor([[1.0, 0.0]], dtype=inputs.dtype).expand(len(inputs), 2)
    return experts(inputs, chosen, weights).detach()


def changes(experts, weight, view, expert, row, ask):
    """By how much the answer moves, when one row of one matrix moves by one and by two steps."""
    matrix = matrix_view(weight.detach(), view)[expert]
    before, kept = ask(), matrix[row].clone()
    moved = []
    for step in (1.0, 2.0):
        matrix[row] = kept + 0.5 * step
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
                assert one.abs().max() > 0.01
                # Some classes go through float32 on their way, whatever they are given.
                torch.testing.assert_close(one, along, rtol=1e-4, atol=1e-5)
                straight.add(torch.allclose(two, 2 * one, rtol=1e-4, atol=1e-5))
            assert len(straight) == 1
            in_proportion += straight
    return in_proportion


FLAGGED = list(flagged())


def test_there_are_classes_with_flags():
    assert len(FLAGGED) > 60


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), FLAGGED, ids=[name for _, name in FLAGGED])
def test_experts_that_carry_flags(module, name):
    check(built(module, name))


@pytest.mark.parametrize("name", ["MixtralExperts", "AriaExperts", "GptOssExperts", "NemotronHExperts"])
def test_each_kind_of_flags(name):
    [(module, _)] = [found for found in FLAGGED if found[1] == name]
    check(built(module, name))


def check(experts, ask=None):
    inputs = torch.randn(5, HIDDEN, dtype=torch.float64)
    ask = ask or (lambda expert: answer(experts, expert, inputs))
    check_last_layer(experts, "down_proj", ask)
    first = [name for name in ("gate_up_proj", "gate_proj", "up_proj") if hasattr(experts, name)]
    straight = check_first_layers(experts, first, "down_proj", ask)
    # The gate goes through a nonlinearity, up does not; without a gate up goes through it.
    assert sorted(straight) == ([False] if first == ["up_proj"] else [False, True])
    for name, parameter in experts.named_parameters():
        if parameter.ndim == 2:
            assert stored(experts, name) is None


TRANSFORMERS = "transformers.models"


@pytest.mark.parametrize(
    ("module", "name"), [("longcat_flash", "LongcatFlashExperts"), ("step3p7", "Step3p7Experts")], ids=lambda name: name
)
def test_experts_without_flags(module, name):
    check(built(f"{TRANSFORMERS}.{module}.modeling_{module}", name))


def test_experts_of_llama4():
    experts = built(f"{TRANSFORMERS}.llama4.modeling_llama4", "Llama4TextExperts")
    inputs = torch.randn(5, HIDDEN, dtype=torch.float64)
    check(experts, lambda expert: experts(inputs.repeat(EXPERTS, 1)).detach().unflatten(0, (EXPERTS, 5))[expert])


def test_shared_experts_of_inkling():
    experts = built(f"{TRANSFORMERS}.inkling.modeling_inkling", "InklingSharedExperts")
    inputs = torch.randn(5, HIDDEN, dtype=torch.float64)

    def ask(expert):
        chosen = torch.zeros(5, EXPERTS, dtype=torch.float64)
        chosen[:, expert] = 1
        return experts(inputs, chosen).detach()

    check(experts, ask)


def check_linear(module, weight, by, ask):
    """Row i of matrix e is output feature i of what `ask(e)` gives, and of nothing else."""
    found = stored(module, weight, by)
    parameter = getattr(module, weight)
    rows = matrix_view(parameter, found.view).shape[-2]
    for row in (0, rows - 1):
        one, two = changes(module, parameter, found.view, 1, row, lambda: ask(1))
        assert torch.equal(one.nonzero()[:, -1].unique(), torch.tensor([row]))
        torch.testing.assert_close(two, 2 * one)
        assert not changes(module, parameter, found.view, 1, row, lambda: ask(2))[0].any()
    return found


def test_experts_of_jetmoe():
    from transformers import JetMoeConfig
    from transformers.models.jetmoe.modeling_jetmoe import JetMoeMoE

    config = JetMoeConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=EXPERTS)
    layer = JetMoeMoE(config).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)

    def ask(of, width):
        inputs = torch.randn(5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return lambda expert: of(inputs, [5 if e == expert else 0 for e in range(EXPERTS)]).detach()

    gates = check_linear(layer.input_linear, "weight", [(layer, "input_linear")], ask(layer.input_linear, HIDDEN))
    last = check_linear(layer.output_linear, "weight", [(layer, "output_linear")], ask(layer.output_linear, INNER))
    assert (gates.split, last.split) == (2, None)


@pytest.mark.parametrize("module", ["moshi", "kyutai_speech_to_text"])
def test_flexible_linear_layers(module):
    source = importlib.import_module(f"{TRANSFORMERS}.{module}.modeling_{module}")
    kind = next(kind for name, kind in vars(source).items() if name.endswith("FlexibleLinear"))
    layer = kind(INNER, HIDDEN, EXPERTS).double()
    inputs = torch.randn(2, EXPERTS, INNER, dtype=torch.float64)
    found = check_linear(layer, "weight", (), lambda codebook: layer(inputs).detach()[:, codebook])
    assert found.split is None


def test_grouped_linear_layers_of_convbert():
    from transformers.models.convbert.modeling_convbert import GroupedLinearLayer

    layer = GroupedLinearLayer(4 * 6, 4 * 5, 4).double()
    nn.init.normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    inputs = torch.randn(2, 3, 24, dtype=torch.float64)
    check_linear(layer, "weight", (), lambda group: layer(inputs).detach().unflatten(-1, (4, 5))[..., group, :])


@pytest.mark.parametrize("weight", ["w1", "v1"])
def test_experts_of_dbrx(weight):
    """Expert e has rows e*F to (e+1)*F of the weights; w2 holds [in, out] in the same rows, which no view can say."""
    from transformers.models.dbrx.configuration_dbrx import DbrxFFNConfig
    from transformers.models.dbrx.modeling_dbrx import DbrxExperts

    config = DbrxFFNConfig(hidden_size=HIDDEN, ffn_hidden_size=INNER, moe_num_experts=EXPERTS)
    experts = DbrxExperts(config).double()
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    inputs = torch.randn(1, 5, HIDDEN, dtype=torch.float64)
    found = stored(experts.mlp, weight, [(experts, "mlp")])
    parts = rows_of_parts(found.split, EXPERTS * INNER)
    assert stored(experts.mlp, "w2") is None

    def ask(expert):
        return experts(inputs, torch.full((5, 1), expert), torch.ones(5, 1, dtype=torch.float64)).detach()[0]

    for unit in (0, INNER - 1):
        matrix = getattr(experts.mlp, weight).detach()
        before = [ask(expert) for expert in range(EXPERTS)]
        matrix[parts[1][unit]] += 0.5
        moved = [ask(expert) - old for expert, old in enumerate(before)]
        assert [change.any().item() for change in moved] == [False, True, False, False]
        column = experts.mlp.w2.detach()[parts[1][unit]]
        along = torch.outer(moved[1] @ column / column.square().sum(), column)
        torch.testing.assert_close(moved[1], along, rtol=1e-6, atol=1e-9)


def test_gates_of_recurrent_gemma():
    from transformers import RecurrentGemmaConfig
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    config = RecurrentGemmaConfig(hidden_size=24, lru_width=24, num_attention_heads=4)
    layer = RecurrentGemmaRglru(config)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    inputs, positions = torch.randn(1, 5, 24), torch.arange(5)[None]
    for weight in ("input_gate_weight", "recurrent_gate_weight"):
        found = stored(layer, weight)

        def ask():
            layer.recurrent_states = None
            return layer(inputs, positions).detach()

        one, _ = changes(layer, getattr(layer, weight), found.view, 2, 4, ask)
        assert torch.equal(one.nonzero()[:, -1].unique(), torch.tensor([2 * 6 + 4]))


@pytest.mark.parametrize("module", ["gemma3", "t5gemma2"])
def test_projections_stored_as_input_by_output(module):
    source = importlib.import_module(f"{TRANSFORMERS}.{module}.modeling_{module}")
    kind = next(kind for name, kind in vars(source).items() if name.endswith("MultiModalProjector"))
    vision = SimpleNamespace(hidden_size=16, layer_norm_eps=1e-6, image_size=8, patch_size=2)
    config = SimpleNamespace(vision_config=vision, text_config=SimpleNamespace(hidden_size=24), mm_tokens_per_image=4)
    layer = kind(config)
    nn.init.normal_(layer.mm_input_projection_weight)
    inputs = torch.randn(1, 16, 16)
    found = stored(layer, "mm_input_projection_weight")
    matrix = matrix_view(layer.mm_input_projection_weight.detach(), found.view)
    before = layer(inputs).detach()
    matrix[3] += 1
    assert torch.equal((layer(inputs).detach() - before).nonzero()[:, -1].unique(), torch.tensor([3]))


def test_a_class_of_the_same_name_elsewhere_is_not_known():
    kind = type("Llama4TextExperts", (nn.Module,), {})
    experts = kind()
    experts.gate_up_proj = nn.Parameter(torch.zeros(4, 24, 40))
    assert stored(experts, "gate_up_proj") is None


def test_every_row_of_the_table_is_of_a_class_of_transformers():
    source = "\n".join(path.read_text() for path in SOURCES)
    for name, weight in STORED:
        body = re.search(rf"\nclass {name}\(.*?(?=\nclass |\Z)", source, re.DOTALL)
        assert body is not None, name
        assert re.search(rf"self\.{weight} = ", body.group()), (name, weight)
