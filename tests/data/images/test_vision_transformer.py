import dataclasses

import numpy as np
import pytest
import torch
from stored_images import pictures

import htmuon
from htmuon.data.images.image_config import ImageConfig
from htmuon.data.images.image_models import ViTConfig, build_vit
from htmuon.recipes import RECIPES
from htmuon.training.train import train


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


def test_it_takes_images_in_memory_too(tmp_path):
    pixels, labels = pictures(8, size=(8, 12))
    np.savez(tmp_path / "own.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    small = ViTConfig(patch_size=4, hidden_size=8, num_layers=1, num_heads=2)
    data = ImageConfig(path=str(tmp_path / "own.npz"))
    config = dataclasses.replace(RECIPES["resnet-tiny"](), data=data, model=small, steps=2, batch_size=4, device="cpu")
    assert train(config, tmp_path / "run").steps == 2
    with pytest.raises(ValueError, match="must be multiples of patch_size, which is 5; they are 8 and 12"):
        train(dataclasses.replace(config, model=dataclasses.replace(small, patch_size=5)), tmp_path / "other")
