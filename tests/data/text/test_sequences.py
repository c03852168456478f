"""How documents become batches, and how these are made ahead."""

import dataclasses
import weakref

import pytest
import torch
from text_streams import open_task

from htmuon.data.text.documents import Fault
from htmuon.data.text.next_token import held_out_loss, training_loss
from htmuon.data.text.reading_order import FilePlace
from htmuon.data.text.sequences import Position, encoded_documents, packed, to_batch
from htmuon.data.text.text_stream import Prefetcher
from htmuon.data.text.tokenizers import StoredTokenizer

CPU = torch.device("cpu")


class TestSequences:
    def packed(self, data, documents):
        pairs = ((tokens, FilePlace(0, 0, row + 1)) for row, tokens in enumerate(documents))
        return list(packed(encoded_documents(pairs, lambda group: group, Position(), pytest.fail), data))

    def test_concatenated_by_hand(self, data, monkeypatch):
        monkeypatch.setattr("htmuon.data.text.sequences._in_groups", lambda documents, encode: documents)
        data = dataclasses.replace(data, sequence_length=3)
        found = self.packed(data, [[1, 2, 0], [3, 0], [4, 5, 6, 7, 8, 9, 0]])
        assert [tokens for tokens, _ in found] == [[1, 2, 0, 3], [3, 0, 4, 5], [5, 6, 7, 8], [8, 9, 0]]
        assert [(position.place.row, position.token) for _, position in found[:3]] == [(1, 0), (2, 1), (2, 4)]

    def test_faults_at_the_end_of_an_epoch_are_no_reason_to_stop(self):
        fault = Fault("a.json, row 3: not JSON")
        documents = [(fault, FilePlace(0, 0, 3)), (fault, FilePlace(1, 0, 1)), ("a", FilePlace(1, 0, 2))]
        found = encoded_documents(
            documents, lambda group: [[5, 6]] * len(group), Position(FilePlace(0, 0, 2)), lambda _: None
        )
        assert [tokens for tokens, _, _ in found] == [[5, 6]]

    def test_a_document_of_one_token_is_left_out(self, data):
        told = []
        places = [FilePlace(0, 0, row) for row in (1, 2, 3)]
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


class TestAhead:
    def test_an_error_comes_where_the_item_would(self):
        def items():
            yield 1
            raise ValueError("no second")

        ahead = Prefetcher(items(), depth=3)
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="no second"):
            next(ahead)

    def test_its_thread_ends_with_it(self):
        ahead = Prefetcher(iter(range(100)), depth=2)
        pool = weakref.ref(ahead._pool)
        (thread,) = ahead._pool._threads
        del ahead
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert pool() is None or pool()._shutdown
