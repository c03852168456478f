"""Runs on streamed text: what is held out, what they tell, and from where they go on."""

import dataclasses
import gzip
import json
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
import torch
from text_streams import c4_line, open_task, path_of, texts, write_c4, write_json_gz

from htmuon.data.text import text_stream as stream_task
from htmuon.data.text.documents import read_documents
from htmuon.data.text.reading_order import training_documents
from htmuon.training.run_config import OptimizerConfig
from htmuon.training.train import train


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

    @pytest.mark.slow
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
        assert "all training data was read; epoch 2 starts." in whole.messages
        for name in ("model.safetensors", "spectra.safetensors"):
            assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    def test_documents_that_cannot_be_read_are_counted_and_told(self, tmp_path, run, recorder):
        lines = [c4_line(text) for text in texts(64, seed=0)]
        for row in (3, 7, 15, 20, 40):  # row 15, the 16th, is held out
            lines[row] = b"{]\n"
        (tmp_path / "a.json").write_bytes(b"".join(lines))
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, path=str(tmp_path), packing="pad"))
        run = dataclasses.replace(run, split="validation", steps=16)
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
            "all training data was read; epoch 2 starts.",
            "8 training documents left out, as unreadable: a.json, row 41: not JSON.",
            "all training data was read; epoch 3 starts.",
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

        monkeypatch.setattr("htmuon.data.text.documents._blocks", broken)
        words = (
            r"reading .*\.json\.gz failed \(RuntimeError: no route\); when .* the run resumes from its last checkpoint"
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
            table = pyarrow.table({"text": [megabyte] * 120})
            pyarrow.parquet.write_table(table, path, row_group_size=4, use_dictionary=False)
            del table
        else:
            with gzip.open(path, "wb", compresslevel=1) as file:
                file.writelines([c4_line(megabyte)] * 120)
        before, most = pyarrow.total_allocated_bytes(), 0
        tracemalloc.start()
        rows = 0
        for _ in read_documents(str(path), data):
            rows += 1
            most = max(most, pyarrow.total_allocated_bytes() - before)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == 120
        # Less than the file: how many groups of rows its threads read ahead depends on the machine and on its load (52
        # MiB were seen on a busy one), not on the file.
        assert max(most, peak) < 90 * 2**20
