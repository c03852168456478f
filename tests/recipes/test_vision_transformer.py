import pytest
import torch

import htmuon
from htmuon.recipes import ViTConfig
from htmuon.recipes.vision.model import build_vit


def test_the_matrices_of_a_vision_transformer():
    model = build_vit(ViTConfig(patch_size=4, num_layers=2), classes=10, channels=3, size=(32, 32), seed=0)
    routes = htmuon.route(model).routes
    spectral = {route.name for route in routes if route.view is not None}
    inside = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert spectral == {f"blocks.{block}.{name}.weight" for block in range(2) for name in inside}
    others = {route.name for route in routes if route.parameter.ndim > 1} - spectral
    assert others == {"cls_token", "pos_embed", "patch_embed.proj.weight", "head.weight"}


def test_the_weights_of_a_vision_transformer_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    models = [
        build_vit(ViTConfig(num_layers=1), classes=3, channels=3, size=(32, 16), seed=seed).state_dict()
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["blocks.0.mlp.fc1.weight"], models[2]["blocks.0.mlp.fc1.weight"])


def test_bad_settings_of_a_vision_transformer():
    with pytest.raises(ValueError, match="hidden_size must be a multiple of num_heads"):
        ViTConfig(hidden_size=10, num_heads=3)
    with pytest.raises(ValueError, match=r"drop_path must be .* less than 1"):
        ViTConfig(drop_path=1.0)
