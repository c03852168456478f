"""Streamed text: what is read, what is left out and told, what is held out, and from where a run goes on."""

import dataclasses
import gzip
import json
import random
import tracemalloc
import weakref
from functools import partial
from itertools import islice

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import torch
from text_streams import c4_line, texts, write_c4, write_json_gz, write_tokenizer

from htmuon.recipes import ModelConfig, OptimizerConfig, RunConfig, StreamConfig, train
from htmuon.recipes.ahead import Ahead
from htmuon.recipes.llm import hub, stream_task
from htmuon.recipes.llm.documents import Fault, read_documents
from htmuon.recipes.llm.losses import held_out_loss, training_loss
from htmuon.recipes.llm.separated import separated, with_plain_newlines
from htmuon.recipes.llm.sequences import Position, encoded_documents, packed, to_batch
from htmuon.recipes.llm.shards import find_shards
from htmuon.recipes.llm.stored_tokenizer import StoredTokenizer
from htmuon.recipes.llm.stream import Place, held_out_documents, training_documents
from htmuon.recipes.llm.stream_task import StreamSource

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("streams")
    write_c4(root / "c4")
    write_tokenizer(root / "tokenizer.json")
    return root


@pytest.fixture
def data(root):
    return StreamConfig(
        path=str(root / "c4"),
        dataset="allenai/c4",
        tokenizer=str(root / "tokenizer.json"),
        end_token="</s>",
        vocab_size=20,
        sequence_length=12,
    )


@pytest.fixture
def run(data):
    return RunConfig(
        recipe="test",
        data=data,
        model=ModelConfig(hidden_size=8, intermediate_size=12, num_layers=1, num_heads=2),
        optimizer=OptimizerConfig(name="htmuon", lr=0.02, adamw_lr=0.003),
        steps=12,
        batch_size=4,
        accumulation=2,
        eval_interval=6,
        log_interval=1,
        checkpoint_interval=5,
        device="cpu",
    )


def path_of(data, path):
    return dataclasses.replace(data, path=str(path))


def open_task(run, tell=lambda _: None):
    return StreamSource(run).open(CPU, None, tell)


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
        assert 100 <= row < 250
        assert found == list(enumerate(documents[:row]))
        assert f"a.parquet, all after row {row}: " in fault.what

    def test_json_that_is_nested_too_deeply_is_a_fault(self, tmp_path, data):
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"[" * 200_000 + b"\n" + c4_line("two"))
        (_, fault), second = read_documents(str(path), data)
        assert fault.what == "a.jsonl, row 1: JSON that is nested too deeply"
        assert second == (1, "two")

    def test_a_document_without_end_is_a_fault(self, tmp_path, data, monkeypatch):
        monkeypatch.setattr("htmuon.recipes.llm.documents.separated", partial(separated, longest=2**20))
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
        documents = training_documents(shards, data, seed, Place(epoch))
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
        tuning, report = (list(held_out_documents(shards, data, use)) for use in ("tuning", "report"))
        held_out = texts(40, seed=9)
        assert (tuning, report) == (held_out[::2], held_out[1::2])

    def test_without_held_out_files_every_16th_document_is(self, root, data, tmp_path):
        for shard in range(3):
            write_json_gz(tmp_path / f"{shard}.json.gz", [f"{shard} {row}" for row in range(50)])
        data = path_of(data, tmp_path)
        shards = find_shards(data)
        training = [d for d, place in islice(training_documents(shards, data, 0, Place()), 150) if place.epoch == 0]
        tuning, report = (list(held_out_documents(shards, data, use)) for use in ("tuning", "report"))
        assert sorted(training + tuning + report) == sorted(f"{shard} {row}" for shard in range(3) for row in range(50))
        assert tuning[:2] == ["0 15", "0 47"]
        assert report[0] == "0 31"

    def test_a_folder_of_short_files_has_held_out_documents_too(self, data, tmp_path):
        for number in range(40):
            (tmp_path / f"{number:02d}.txt").write_text(f"file {number}")
        data = path_of(data, tmp_path)
        assert list(held_out_documents(find_shards(data), data, "tuning")) == ["file 15"]
        assert list(held_out_documents(find_shards(data), data, "report")) == ["file 31"]

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


class TestSequences:
    def packed(self, data, documents):
        pairs = ((tokens, Place(0, 0, row + 1)) for row, tokens in enumerate(documents))
        return list(packed(encoded_documents(pairs, lambda group: group, Position(), pytest.fail), data))

    def test_concatenated_by_hand(self, data, monkeypatch):
        monkeypatch.setattr("htmuon.recipes.llm.sequences._in_groups", lambda documents, encode: documents)
        data = dataclasses.replace(data, sequence_length=3)
        found = self.packed(data, [[1, 2, 0], [3, 0], [4, 5, 6, 7, 8, 9, 0]])
        assert [tokens for tokens, _ in found] == [[1, 2, 0, 3], [3, 0, 4, 5], [5, 6, 7, 8], [8, 9, 0]]
        assert [(position.place.row, position.token) for _, position in found[:3]] == [(1, 0), (2, 1), (2, 4)]

    def test_faults_at_the_end_of_an_epoch_are_no_reason_to_stop(self):
        fault = Fault("a.json, row 3: not JSON")
        documents = [(fault, Place(0, 0, 3)), (fault, Place(1, 0, 1)), ("a", Place(1, 0, 2))]
        found = encoded_documents(
            documents, lambda group: [[5, 6]] * len(group), Position(Place(0, 0, 2)), lambda _: None
        )
        assert [tokens for tokens, _, _ in found] == [[5, 6]]

    def test_a_document_of_one_token_is_left_out(self, data):
        told = []
        places = [Place(0, 0, row) for row in (1, 2, 3)]
        documents = zip(["a", "b", "c"], places, strict=True)
        tokens = {"a": [5, 6], "b": [7], "c": [8, 9]}
        found = encoded_documents(documents, lambda group: [tokens[text] for text in group], Position(), told.append)
        assert [document for document, _, _ in found] == [[5, 6], [8, 9]]
        assert told == ["1 training document left out, as unreadable: row 2: fewer than two tokens."]

    def test_padding_is_no_target_and_the_loss_is_that_by_hand(self, data):
        inputs, targets = to_batch([[5, 6, 1], [7, 8, 9, 4, 1]], 5)
        assert inputs.tolist() == [[5, 6, 1, 0, 0], [7, 8, 9, 4, 1]]
        assert targets.tolist() == [[6, 1, -100, -100, -100], [8, 9, 4, 1, -100]]
        table = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))

        class Bigram(torch.nn.Module):
            def forward(self, input_ids):
                return type("Output", (), {"logits": table[input_ids]})

        pairs = [(5, 6), (6, 1), (7, 8), (8, 9), (9, 4), (4, 1)]
        by_hand = -sum(float(table[a].log_softmax(0)[b]) for a, b in pairs) / len(pairs)
        assert float(training_loss(Bigram(), (inputs, targets))) == pytest.approx(by_hand, rel=1e-6)
        for size in (1, 2):
            loss = held_out_loss(Bigram(), inputs.int(), targets.int(), batch_size=size, device=CPU)
            assert loss == pytest.approx(by_hand, rel=1e-6)

    def test_a_padded_document_is_cut_off_with_its_end(self, data):
        padding = StoredTokenizer(dataclasses.replace(data, packing="pad", sequence_length=4))
        assert padding.encode(["the of", "the of and to in that"]) == [[4, 5, 1], [4, 5, 6, 1]]
        assert StoredTokenizer(data).encode(["the of and to in that"]) == [[4, 5, 6, 7, 8, 9, 1]]

    def test_evaluation_stops_at_its_tokens(self, run):
        data = dataclasses.replace(run.data, evaluation_tokens=50)
        task = open_task(dataclasses.replace(run, data=data))
        assert task.held_out.targets.shape == (4, 12)  # four times 12 are at most 50
        assert task.held_out.inputs.dtype == torch.int32


class TestRuns:
    def batches(self, run, count):
        task = open_task(run, lambda _: None)
        return [task.fetch(index) for index in range(count)]

    def test_batches_depend_on_the_seed_alone(self, run):
        first, again = self.batches(run, 5), self.batches(run, 5)
        sgd = dataclasses.replace(run, optimizer=OptimizerConfig(name="sgd"), steps=3)
        for other in (again, self.batches(sgd, 5)):
            for (a, b), (c, d) in zip(first, other, strict=True):
                assert torch.equal(a, c)
                assert torch.equal(b, d)
        assert any(
            not torch.equal(first[0][0], self.batches(dataclasses.replace(run, seed=s), 1)[0][0]) for s in (1, 2, 3)
        )

    def test_a_step_is_the_same_however_it_is_divided(self, tmp_path, run):
        losses = []
        for size, passes in ((8, 1), (4, 2), (2, 4), (1, 8)):
            data = dataclasses.replace(run.data, packing="pad", sequence_length=40)
            divided = dataclasses.replace(run, data=data, steps=2, batch_size=size, accumulation=passes)
            train(divided, tmp_path / f"{size}")
            lines = map(json.loads, (tmp_path / f"{size}" / "metrics.jsonl").read_text().splitlines())
            losses.append([line["loss"] for line in lines if line["kind"] == "train"])
        # The second loss depends on the gradients of the first step.
        for other in losses[1:]:
            assert other == pytest.approx(losses[0], abs=1e-6)

    @pytest.mark.parametrize("packing", ["pad", "concatenate"])
    def test_a_broken_run_goes_on_with_the_same_bits(self, tmp_path, run, recorder, packing):
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, packing=packing), steps=60)
        whole, other = recorder(), recorder()
        train(run, tmp_path / "whole", whole)

        def stop(step):
            if step in (8, 33, 52) and step not in stopped:
                stopped.append(step)
                raise KeyboardInterrupt

        stopped: list[int] = []
        other.at_step = stop
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                train(run, tmp_path / "broken", other)
        train(run, tmp_path / "broken", other)
        assert other.first_steps == [0, 5, 30, 50]
        assert "all training data was read; epoch 2 begins." in whole.messages
        for name in ("model.safetensors", "spectra.safetensors"):
            assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_documents_that_cannot_be_read_are_counted_and_told(self, tmp_path, run, recorder):
        lines = [c4_line(text) for text in texts(64, seed=0)]
        for row in (3, 7, 15, 20, 40):  # row 15, the 16th, is held out
            lines[row] = b"{]\n"
        (tmp_path / "a.json").write_bytes(b"".join(lines))
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=str(tmp_path), packing="pad"))
        run = dataclasses.replace(run, evaluate_on="tuning", steps=16)
        observer = recorder()
        result = train(run, tmp_path / "run", observer)
        # 16 steps of 8 documents: two epochs of 56 with 4 faults each, and the first 16 of the third, with 2.
        assert result.unreadable_samples == 11 == 1 + 4 + 4 + 2
        assert observer.messages == [
            "the order of documents hardly depends on the seed: it decides the order of files, and within a file "
            "documents stay as they are; for another order divide the text into more than 1.",
            "text: 1 file to train on, every 16th document is held out; "
            "first up to 10,000,000 held-out tokens are read.",
            "held-out documents left out, as unreadable: 1, such as a.json, row 16: not JSON.",
            "1 training document left out, as unreadable: a.json, row 4: not JSON.",
            "2 training documents left out, as unreadable: a.json, row 8: not JSON.",
            "4 training documents left out, as unreadable: a.json, row 41: not JSON.",
            "all training data was read; epoch 2 begins.",
            "8 training documents left out, as unreadable: a.json, row 41: not JSON.",
            "all training data was read; epoch 3 begins.",
        ]
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["unreadable_samples"] for line in lines if line["kind"] == "train"][
            -1
        ] == result.unreadable_samples

    def test_data_without_a_document_that_can_be_read_is_an_error(self, tmp_path, run):
        write_json_gz(tmp_path / "valid.json.gz", texts(10, seed=0))
        (tmp_path / "a.json").write_bytes(b"{]\n" * 100)
        bad = dataclasses.replace(run, data=path_of(run.data, tmp_path))
        with pytest.raises(ValueError, match=r"none of 101 could be \(a\.json, row 1: not JSON\)"):
            open_task(bad).fetch(0)
        (tmp_path / "a.json").write_bytes(b"\n\n")
        with pytest.raises(ValueError, match="must have documents to train on"):
            open_task(bad).fetch(0)
        (tmp_path / "valid.json.gz").unlink()
        with pytest.raises(ValueError, match=r"at least 32 documents where no file is held out by its name\.$"):
            open_task(bad)
        (tmp_path / "a.json").rename(tmp_path / "a.txt")
        with pytest.raises(ValueError, match=r"at least 32 documents .* with --data\.separator\.$"):
            open_task(bad)

    def test_a_connection_that_breaks_is_one_sentence(self, tmp_path, run, monkeypatch):
        task = open_task(run)

        def broken(file):
            yield c4_line("one of the documents that were read")
            raise RuntimeError("no route")

        monkeypatch.setattr("htmuon.recipes.llm.documents._blocks", broken)
        words = (
            r"reading .*\.json\.gz failed \(RuntimeError: no route\); when .* the run goes on from its last checkpoint"
        )
        with pytest.raises(OSError, match=words):
            task.fetch(0)

    def test_changed_data_is_refused(self, tmp_path, run):
        write_c4(tmp_path / "c4")
        run = dataclasses.replace(run, data=path_of(run.data, tmp_path / "c4"))
        train(run, tmp_path / "run")
        write_json_gz(tmp_path / "c4" / "more.json.gz", texts(5, seed=0))
        with pytest.raises(ValueError, match="changed since the run"):
            train(run, tmp_path / "run")

    def test_no_more_is_read_than_a_bounded_number_of_documents_ahead(self, root, run, monkeypatch):
        read = 0

        def counted(*arguments):
            nonlocal read
            for item in training_documents(*arguments):
                read += 1
                yield item

        monkeypatch.setattr(stream_task, "training_documents", counted)
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, packing="pad"))
        task = open_task(run, lambda _: None)
        for index in range(30):
            task.fetch(index)
        task.fetch(30)
        waiting = list(task._batches._results)
        _ = [future.result() for future in waiting]
        # 31 batches of 4, 16 batches ahead, and one group of documents that are tokenized together.
        assert (31 + 16) * 4 <= read <= (31 + 16) * 4 + 64

    @pytest.mark.parametrize("kind", ["json.gz", "parquet"])
    def test_a_large_file_is_not_in_memory(self, tmp_path, data, kind):
        megabyte = "the " * 250_000
        path = tmp_path / f"large.{kind}"
        if kind == "parquet":
            table = pyarrow.table({"text": [megabyte] * 40})
            pyarrow.parquet.write_table(table, path, row_group_size=4, use_dictionary=False)
            del table
        else:
            with gzip.open(path, "wb", compresslevel=1) as file:
                file.writelines([c4_line(megabyte)] * 40)
        before, most = pyarrow.total_allocated_bytes(), 0
        tracemalloc.start()
        rows = 0
        for _ in read_documents(str(path), data):
            rows += 1
            most = max(most, pyarrow.total_allocated_bytes() - before)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == 40
        assert max(most, peak) < 20 * 2**20


class TestAhead:
    def test_an_error_comes_where_the_item_would(self):
        def items():
            yield 1
            raise ValueError("no second")

        ahead = Ahead(items(), depth=3)
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="no second"):
            next(ahead)

    def test_its_thread_ends_with_it(self):
        ahead = Ahead(iter(range(100)), depth=2)
        pool = weakref.ref(ahead._pool)
        (thread,) = ahead._pool._threads
        del ahead
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert pool() is None or pool()._shutdown


class TestSources:
    @pytest.fixture
    def no_network(self, monkeypatch, tmp_path):
        """A hub that refuses connections, and an empty cache."""
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        hub.hub_answers.cache_clear()
        yield
        hub.hub_answers.cache_clear()

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
