"""Where streamed text comes from: local files and the hub."""

import dataclasses

import huggingface_hub
import pytest
from text_streams import open_task, path_of

from htmuon.data.text import shards
from htmuon.data.text.shards import find_shards
from htmuon.data.text.tokenizers import StoredTokenizer


class TestSources:
    @pytest.fixture
    def no_network(self, monkeypatch, tmp_path):
        """A hub that refuses connections, and an empty cache."""
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        shards.hub_answers.cache_clear()
        yield
        shards.hub_answers.cache_clear()

    def test_without_a_network_one_sentence_says_what_to_do(self, no_network, data):
        words = r"allenai/c4 \(en\) is on the Hugging Face hub, which does not answer .*local files with --data PATH"
        with pytest.raises(ValueError, match=words):
            find_shards(dataclasses.replace(data, path="", subset="en"))
        with pytest.raises(ValueError, match=r"nobody/none is on the Hugging Face hub, .*: --data\.tokenizer PATH"):
            StoredTokenizer(dataclasses.replace(data, tokenizer="nobody/none"))

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"end_token": "<eos>"}, r"must have the token '<eos>'.*--data\.end-token.*</s>"),
            ({"tokenizer": "missing/tokenizer.json"}, r"must be a file that exists.*--data\.tokenizer"),
        ],
    )
    def test_bad_tokenizers(self, data, settings, words):
        with pytest.raises(ValueError, match=words):
            StoredTokenizer(dataclasses.replace(data, **settings))

    def test_a_file_that_is_no_tokenizer(self, data, tmp_path):
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(ValueError, match="must be a tokenizer"):
            StoredTokenizer(dataclasses.replace(data, tokenizer=str(tmp_path)))

    def test_tokens_beyond_the_vocabulary_are_an_error(self, data):
        with pytest.raises(ValueError, match=r"below vocab_size=6; the tokenizer gave 7.*--data\.vocab-size 20"):
            StoredTokenizer(dataclasses.replace(data, vocab_size=6)).encode(["the of and to"])

    @pytest.mark.parametrize(
        ("names", "words"),
        [([], "has none"), (["a.csv"], "has none"), (["valid.json"], "has none"), ([".a.json"], "has none")],
    )
    def test_bad_folders(self, data, tmp_path, names, words):
        for name in names:
            (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=words):
            find_shards(path_of(data, tmp_path))

    def test_bad_paths(self, data, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            find_shards(path_of(data, tmp_path / "nothing"))
        (tmp_path / "a.csv").write_text("")
        with pytest.raises(ValueError, match="is none"):
            find_shards(path_of(data, tmp_path / "a.csv"))

    def test_one_file_is_enough(self, data, root):
        shards = find_shards(path_of(data, root / "c4" / "c4-validation.00000-of-00001.json.gz"))
        assert len(shards.training) == 1
        assert shards.held_out == ()
        assert len(shards.fingerprint) == 16

    def test_held_out_files_have_a_word_for_it_in_their_path(self, data, tmp_path):
        held_out = ["val.jsonl", "validation/0000.jsonl", "test.parquet", "a/c4-validation.00000.json.gz", "Test_1.txt"]
        training = ["invalid.jsonl", "latest.txt", "train/interval.jsonl", "values.json", "a/valued.txt"]
        for name in (*held_out, *training):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        shards = find_shards(path_of(data, tmp_path))
        assert shards.held_out == tuple(str(path) for path in sorted(tmp_path / name for name in held_out))
        assert shards.training == tuple(str(path) for path in sorted(tmp_path / name for name in training))

    def test_it_is_told_what_is_held_out(self, run, root):
        told = []
        open_task(run, told.append)
        assert told[1] == (
            "text: 3 files to train on, 1 held out, such as c4-validation.00000-of-00001.json.gz; "
            "first up to 10,000,000 held-out tokens are read."
        )
