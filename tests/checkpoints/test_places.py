"""Depth and module type, read from names."""

import pytest

from htmuon.routing.names import common_prefixes, module_places


@pytest.mark.parametrize(
    ("name", "depth", "module_type"),
    [
        ("model.layers.3.self_attn.q_proj.weight", 3, "self_attn.q_proj"),
        ("model.layers.3.mlp.experts.12.w1.weight", 3, "mlp.experts.*.w1"),
        ("model.layers.3.mlp.experts.gate_up_proj[7]", 3, "mlp.experts.gate_up_proj.*"),
        ("encoder.layer.11.attention.output.dense.weight", 11, "attention.output.dense"),
        ("h.0.attn.c_attn.weight", 0, "attn.c_attn"),
        ("transformer.wte.weight", None, "embedding"),
        ("model.embed_tokens.weight", None, "embedding"),
        ("vit.patch_embed.proj.weight", None, "embedding"),
        ("lm_head.weight", None, "head"),
        ("classifier.weight", None, "head"),
        ("heads.0.weight", 0, "head"),
        ("_fc.weight", None, "head"),
        ("_conv_head.weight", None, "_conv_head"),
        ("pooler.dense.weight", None, "pooler.dense"),
        ("2.weight", 2, "weight"),
        ("tensor", None, "tensor"),
        ("", None, "weight"),
    ],
)
def test_a_place(name, depth, module_type):
    place = module_places([name])[name]
    assert (place.depth, place.module_type) == (depth, module_type)


def test_blocks_of_several_stacks_are_numbered_through():
    names = [f"{stack}.block.{i}.w" for stack in ("encoder", "decoder") for i in range(11)]
    found = module_places(names)
    assert found["decoder.block.10.w"].depth == 10
    assert found["encoder.block.0.w"].depth == 11
    stages = module_places(["layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "conv1.weight"])
    assert [place.depth for place in stages.values()] == [0, 1, 2, None]


@pytest.mark.parametrize(
    ("first", "second", "prefixes"),
    [
        (["a.w", "b.w"], ["a.w"], ("", "")),
        (["module.a.w", "module.b.w"], ["a.w", "b.w"], ("module.", "")),
        (["a.w"], ["_orig_mod.module.a.w"], ("", "_orig_mod.module.")),
        (["bert.layer.0.w", "cls.w"], ["layer.0.w", "pooler.w"], ("bert.", "")),
        (["a.w"], ["b.v"], ("", "")),
    ],
)
def test_names_are_matched_up_to_what_a_wrapper_puts_in_front(first, second, prefixes):
    assert common_prefixes(first, second) == prefixes
