"""What is read of a file, what is left out and told, and in which order documents come."""

import dataclasses
import gzip
import json
import random
import tracemalloc
from functools import partial
from itertools import islice

import pyarrow
import pyarrow.parquet
import pytest
from text_streams import c4_line, path_of, texts, write_json_gz

from htmuon.data.text.documents import Fault, read_documents, separated, with_plain_newlines
from htmuon.data.text.reading_order import FilePlace, held_out_documents, training_documents
from htmuon.data.text.sequences import Position, encoded_documents, packed
from htmuon.data.text.shards import find_shards
from htmuon.data.text.tokenizers import StoredTokenizer


class TestReading:
    def test_damaged_lines_are_faults_with_their_rows(self, tmp_path, data):
        lines = [
            c4_line("one"),
            b'{"text": "two"\n',
            b"\n",
            c4_line("thr\u00e9e \u4e09"),
            b'{"text": "\xff\xfe"}\n',
            b'{"url": "no text"}\n',
            b'["text"]\n',
            c4_line(" \n"),
            b'{"text": "\\ud800"}\n',
            b'{"text": 8}\n',
            c4_line("two lines\nof text"),
        ]
        for name, content in (("a.json.gz", gzip.compress(b"".join(lines))), ("a.jsonl", b"".join(lines))):
            (tmp_path / name).write_bytes(content)
            found = list(read_documents(str(tmp_path / name), data))
            assert [(row, item) for row, item in found if isinstance(item, str)] == [
                (0, "one"),
                (3, "thr\u00e9e \u4e09"),
                (10, "two lines\nof text"),
            ]
            faults = {row: item.what for row, item in found if isinstance(item, Fault)}
            assert list(faults) == [1, 4, 5, 6, 7, 8, 9]
            assert faults[1] == f"{name}, row 2: not JSON"
            assert faults[4] == f"{name}, row 5: not UTF-8"
            assert faults[5] == f"{name}, row 6: no 'text' (--data.text-column), only 'url'"
            assert faults[6] == f"{name}, row 7: a JSON list; each line must be an object"
            assert faults[9] == f"{name}, row 10: no text under 'text'"
            assert faults[7] == f"{name}, row 8: empty"

    def test_the_rest_of_a_damaged_file_is_one_fault(self, tmp_path, data):
        path = tmp_path / "cut.json.gz"
        documents = texts(4000, seed=0)
        write_json_gz(path, documents)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        found = list(read_documents(str(path), data))
        assert [item for _, item in found[:-1]] == documents[: len(found) - 1]
        assert 1500 < len(found) < 2500
        assert f"cut.json.gz, all after row {len(found) - 1}:" in found[-1][1].what
        for first in (len(found) - 1, len(found)):
            assert list(read_documents(str(path), data, first=first)) == found[first:]
        path.write_bytes(b"no gzip at all")
        ((row, fault),) = read_documents(str(path), data)
        assert row == 0
        assert "Not a gzipped file" in fault.what

    def test_parquet(self, tmp_path, data):
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": ["one", None, ""]}), path)
        (first, *faults) = read_documents(str(path), data)
        assert first == (0, "one")
        assert [fault.what for _, fault in faults] == [
            "a.parquet, row 2: no text under 'text'",
            "a.parquet, row 3: empty",
        ]
        ((_, fault),) = read_documents(str(path), dataclasses.replace(data, text_column="body"))
        assert "no column 'body', it has id, text" in fault.what
        path.write_bytes(path.read_bytes()[:100])
        ((_, fault),) = read_documents(str(path), data)
        assert "a.parquet, all after row 0" in fault.what

    @pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
    def test_the_rest_of_a_damaged_parquet_file_is_one_fault(self, tmp_path, data, compression):
        path = tmp_path / "a.parquet"
        draw = random.Random(0)
        documents = ["".join(draw.choices("abcdefgh \u00e9", k=500)) for _ in range(400)]
        table = pyarrow.table({"text": documents})
        pyarrow.parquet.write_table(table, path, row_group_size=50, compression=compression, use_dictionary=False)
        content = bytearray(path.read_bytes())
        middle = slice(len(content) // 2, len(content) // 2 + 40)
        content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
        path.write_bytes(content)
        *found, (row, fault) = read_documents(str(path), data)
        # The damage is in the fifth group of 50; on a busy machine arrow's threads find it before handing out others.
        assert row < 250
        assert found == list(enumerate(documents[:row]))
        assert f"a.parquet, all after row {row}: " in fault.what

    def test_json_that_is_nested_too_deeply_is_a_fault(self, tmp_path, data):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"[" * 200_000 + b"\n" + c4_line("two"))
        (_, fault), second = read_documents(str(path), data)
        assert fault.what == "a.jsonl, row 1: JSON that is nested too deeply"
        assert second == (1, "two")

    def test_a_document_without_end_is_a_fault(self, tmp_path, data, monkeypatch):
        monkeypatch.setattr("htmuon.data.text.documents.separated", partial(separated, longest=2**20))
        path = tmp_path / "a.txt"
        path.write_bytes(b"line\r\n" * 2**20 + b"<|endoftext|>" + b"two")
        tracemalloc.start()
        (_, fault), second = read_documents(str(path), data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert fault.what.startswith("a.txt, row 1: longer than 64 MB; ")
        assert "--data.separator" in fault.what
        assert second == (1, "two")
        assert peak < 8 * 2**20

    @pytest.mark.parametrize("separator", [b"|", b"=====", b"\n"])
    def test_blocks_are_divided_wherever_they_are_cut(self, separator):
        content = separator.join([b"one", b"", b"two\nthree"[: 3 if separator == b"\n" else None], b"x" * 50, b"end"])
        for size in range(1, 70):
            blocks = [content[begin : begin + size] for begin in range(0, len(content), size)]
            expected = [None if len(part) > 20 else part for part in content.split(separator)]
            assert list(separated(blocks, separator, longest=20)) == expected

    def test_newlines_are_plain_wherever_blocks_are_cut(self):
        content = b"one\r\ntwo\r\r\nthree\n\r"
        for size in range(1, 20):
            blocks = [content[begin : begin + size] for begin in range(0, len(content), size)]
            assert b"".join(with_plain_newlines(blocks)) == content.replace(b"\r\n", b"\n")

    @pytest.mark.parametrize("separator", ["<|endoftext|>", r"\n\n", "==="])
    def test_text_files_are_divided_by_the_separator(self, tmp_path, data, separator):
        path = tmp_path / "a [1].txt"
        mark = separator.replace(r"\n", "\n")
        path.write_text(mark.join(["one\nline", " two ", "", "three\n\u00e9"]) + mark)
        data = dataclasses.replace(data, separator=separator)
        assert list(read_documents(str(path), data)) == [(0, "one\nline"), (1, "two"), (3, "three\n\u00e9")]
        path.write_bytes(b"one" + mark.encode() + b"\xff" + mark.encode() + b"three")
        assert [str(item) for _, item in read_documents(str(path), data)][::2] == ["one", "three"]

    def test_reading_goes_on_at_any_row(self, root, data):
        path = str(root / "c4" / "c4-train.00000-of-00003.json.gz")
        whole = list(read_documents(path, data))
        assert [document for _, document in whole] == texts(60, seed=0)
        assert list(read_documents(path, data, first=17, wanted=lambda row: row % 2 == 0)) == whole[18::2]


class TestOrder:
    def epoch(self, data, seed, epoch=0):
        shards = find_shards(data)
        documents = training_documents(shards, data, seed, FilePlace(epoch))
        return [document for document, place in islice(documents, 200) if place.epoch == epoch]

    def test_an_epoch_is_every_document_in_an_order_of_the_seed(self, data):
        orders = {tuple(self.epoch(data, seed)) for seed in range(10)}
        everything = [text for shard in range(3) for text in texts(60, seed=shard)]
        assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(everything))}
        assert 3 <= len(orders) <= 6  # of three shards
        assert self.epoch(data, 0) == self.epoch(data, 0)
        assert len({tuple(self.epoch(data, 0, epoch)) for epoch in range(8)}) > 1

    def test_held_out_files_are_shared_by_the_two_uses(self, data):
        shards = find_shards(data)
        tuning, report = (list(held_out_documents(shards, data, use)) for use in ("validation", "test"))
        held_out = texts(40, seed=9)
        assert (tuning, report) == (held_out[::2], held_out[1::2])

    def test_without_held_out_files_every_16th_document_is(self, root, data, tmp_path):
        for shard in range(3):
            write_json_gz(tmp_path / f"{shard}.json.gz", [f"{shard} {row}" for row in range(50)])
        data = path_of(data, tmp_path)
        shards = find_shards(data)
        training = [d for d, place in islice(training_documents(shards, data, 0, FilePlace()), 150) if place.epoch == 0]
        tuning, report = (list(held_out_documents(shards, data, use)) for use in ("validation", "test"))
        assert sorted(training + tuning + report) == sorted(f"{shard} {row}" for shard in range(3) for row in range(50))
        assert tuning[:2] == ["0 15", "0 47"]
        assert report[0] == "0 31"

    @pytest.mark.parametrize("files_held_out", [True, False])
    def test_a_confirmation_is_judged_by_what_others_train_on_and_it_does_not(self, data, tmp_path, files_held_out):
        if not files_held_out:
            for shard in range(3):
                write_json_gz(tmp_path / f"{shard}.json.gz", [f"{shard} {row}" for row in range(60)])
            data = path_of(data, tmp_path)
        shards = find_shards(data)

        def training(use):
            found = islice(training_documents(shards, data, 0, FilePlace(), use), 200)
            return {document for document, place in found if place.epoch == 0}

        back = set(held_out_documents(shards, data, "confirmation"))
        seen = {text for use in ("validation", "test") for text in held_out_documents(shards, data, use)}
        assert training("test") - training("confirmation") == back
        assert training("confirmation") < training("test") == training("validation")
        assert len(back) >= 10  # of 180
        assert not back & seen

    def test_a_folder_of_short_files_has_held_out_documents_too(self, data, tmp_path):
        for number in range(40):
            (tmp_path / f"{number:02d}.txt").write_text(f"file {number}")
        data = path_of(data, tmp_path)
        assert list(held_out_documents(find_shards(data), data, "validation")) == ["file 15"]
        assert list(held_out_documents(find_shards(data), data, "test")) == ["file 31"]

    @pytest.mark.parametrize("packing", ["pad", "concatenate"])
    def test_sequences_go_on_at_any_position(self, data, packing):
        data = dataclasses.replace(data, packing=packing, sequence_length=7)
        shards, encode = find_shards(data), StoredTokenizer(data).encode

        def sequences(position, count):
            documents = training_documents(shards, data, 3, position.place)
            return list(islice(packed(encoded_documents(documents, encode, position, lambda _: None), data), count))

        whole = sequences(Position(), 700)
        assert whole[-1][1].place.epoch >= 1
        for k in (1, 2, 50, 51, 333, 690):
            position = Position.from_dict(json.loads(json.dumps(whole[k - 1][1].to_dict())))
            assert sequences(position, 700 - k) == whole[k:]
