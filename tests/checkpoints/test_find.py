"""Which files a path means."""

import json

import pytest
import torch
from stored_models import model, write, write_shards

from htmuon.checkpoints.find import find_checkpoint


def found(path):
    result = find_checkpoint(path)
    return [str(file.relative_to(path)) for file in result.files], result.note


def test_a_file_is_itself(tmp_path):
    file = write(tmp_path / "x.safetensors", model())
    assert find_checkpoint(file).files == (file,)


def test_a_model_folder_has_one_file_or_shards(tmp_path):
    write(tmp_path / "one" / "model.safetensors", model())
    (tmp_path / "one" / "config.json").write_text("{}")
    torch.save(model(), tmp_path / "one" / "pytorch_model.bin")
    assert found(tmp_path / "one") == (["model.safetensors"], "")
    write_shards(tmp_path / "two", model())
    write(tmp_path / "two" / "consolidated.safetensors", model())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert found(tmp_path / "two") == (names, "2 shards")


def test_a_folder_without_an_index_is_all_its_files(tmp_path):
    write_shards(tmp_path, model(), index=False)
    assert found(tmp_path) == (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "2 files")


def test_an_index_of_another_name_is_found(tmp_path):
    write_shards(tmp_path, model())
    index = tmp_path / "model.safetensors.index.json"
    index.rename(tmp_path / "diffusion_pytorch_model.safetensors.index.json")
    assert found(tmp_path)[1] == "2 shards"


def test_pickles_of_hugging_face_are_the_last_resort(tmp_path):
    torch.save(model(), tmp_path / "pytorch_model.bin")
    torch.save({"args": 1}, tmp_path / "training_args.bin")
    assert found(tmp_path) == (["pytorch_model.bin"], "")


def test_a_run_folder_has_its_weights_or_its_newest_checkpoint(tmp_path):
    for step in (100, 200):
        place = tmp_path / "checkpoints" / f"step-{step:08d}"
        write(place / "model.safetensors", model())
        write(place / "optimizer.safetensors", model())
    assert found(tmp_path) == (["checkpoints/step-00000200/model.safetensors"], "the unfinished run's step-00000200")
    write(tmp_path / "spectra.safetensors", {"weights/w": torch.ones(3)})
    assert found(tmp_path)[0] == ["checkpoints/step-00000200/model.safetensors"]
    write(tmp_path / "model.safetensors", model())
    assert found(tmp_path) == (["model.safetensors"], "")


def refused(path):
    with pytest.raises(ValueError, match=r"\w") as error:
        find_checkpoint(path)
    return str(error.value)


def test_a_folder_without_a_checkpoint_says_where_there_are_some(tmp_path):
    assert refused(tmp_path / "nothing").endswith(
        "nothing must be a file or folder with a checkpoint; there is none. Check the path."
    )
    assert "it has none. Check the path." in refused(tmp_path)
    write(tmp_path / "runs" / "a" / "model.safetensors", model())
    assert f"There are some in {tmp_path}/runs/a: give one of these." in refused(tmp_path)
    torch.save(model(), tmp_path / "last.ckpt")
    assert "It has last.ckpt: give the file's own path, with --allow-pickle." in refused(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    for folder, index in ((tmp_path / "a", True), (tmp_path / "b", False)):
        write_shards(folder, model(), index=index)[1].unlink()
        message = refused(folder)
        assert "model-00002-of-00002.safetensors is not" in message
        assert message.endswith("Fetch what is missing, or give one of the files.")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"w": 3}}', json.dumps({"weight_map": {}})]
)
def test_a_damaged_index_is_one_error(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert refused(tmp_path).endswith("Fetch it again.")


def test_an_index_does_not_lead_out_of_its_folder(tmp_path):
    write(tmp_path / "secret.safetensors", model())
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../secret.safetensors"}}')
    assert "must name files of its own folder; got ../secret.safetensors" in refused(tmp_path / "m")
