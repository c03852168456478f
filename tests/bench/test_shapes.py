import pytest

from htmuon.bench.shapes import Shape, known_models, model_matrices, own_matrices
from htmuon.recipes import RECIPES


def test_the_matrices_of_a_recipe_are_those_that_its_training_maps():
    model = model_matrices("llama-tiny")
    assert model.shapes == (Shape(128, 128, 24), Shape(352, 128, 12), Shape(128, 352, 6))
    assert model.describe() == "42 hidden matrices (128x128*24, 352x128*12, 128x352*6) of llama-tiny"


@pytest.mark.parametrize(
    # Known sizes of the paper's models without their two embeddings.
    ("name", "millions"),
    [("llama-60m", 25.3), ("llama-135m", 84.9), ("llama-350m", 302.4), ("llama-1b", 1207.9), ("gpt2-small", 84.9)],
)
def test_models_of_the_paper_have_its_sizes(name, millions):
    layers = RECIPES[name]().model.num_layers
    one = model_matrices(name, layers=1)
    parameters = sum(shape.rows * shape.columns * shape.count for shape in one.shapes) * layers
    assert parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert one.describe().endswith(f"of the first 1 of {layers} layers of {name}")
    assert name in known_models()


def test_shapes_of_a_user_are_counted():
    assert own_matrices(["4x6", "8x8*3", "4x6*2"]).shapes == (Shape(4, 6, 3), Shape(8, 8, 3))


@pytest.mark.parametrize("text", ["", "4", "4x", "4x6*0", "1x5", "-4x6", "4x6x7", "4 x 6"])
def test_what_is_not_a_shape_is_refused(text):
    with pytest.raises(ValueError, match=r"such as 512x1376\*4; got"):
        own_matrices([text])


@pytest.mark.parametrize("layers", [0, 7])
def test_layers_are_those_of_the_model(layers):
    with pytest.raises(ValueError, match="between 1 and the 6 layers of llama-tiny"):
        model_matrices("llama-tiny", layers)
