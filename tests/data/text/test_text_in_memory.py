import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from htmuon._files import MANIFEST
from htmuon.data.text import token_cache as tokens_file
from htmuon.data.text.corpus import fingerprint, read_files, split_documents
from htmuon.data.text.next_token import TrainingBatches, evaluation_windows
from htmuon.data.text.text_config import TextConfig
from htmuon.data.text.text_in_memory import LanguageModelling
from htmuon.data.text.token_cache import TOKENS, TokenizedText, prepare_tokens
from htmuon.data.text.tokenizers import END_TOKEN, encode, train_tokenizer


def split_text(path, separator="\n\n"):
    config = TextConfig(path=str(path), separator=separator)
    return split_documents(read_files(config.path), config)


def test_embedded_text_is_split_by_document():
    split = split_documents(read_files(""), TextConfig())
    assert [len(split.training), len(split.validation), len(split.test)] == [222, 8, 7]
    assert len({*split.training, *split.validation, *split.test}) == 237
    assert not any("<|endoftext|>" in document for document in (*split.training, *split.validation, *split.test))


@pytest.mark.parametrize(("count", "held_out"), [(4, 2), (5, 2), (7, 2), (31, 2), (32, 2), (160, 10)])
def test_local_documents_are_each_in_one_part(tmp_path, count, held_out):
    documents = [f"document {index}" for index in range(count)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    split = split_text(tmp_path / "text.txt")
    assert sorted(split.training + split.validation + split.test) == sorted(documents)
    assert len(split.validation) + len(split.test) == held_out
    assert 0 <= len(split.validation) - len(split.test) <= 1
    assert split == split_text(tmp_path / "text.txt")


def test_sixteenth_documents_alternate_between_validation_and_test(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(str(index) for index in range(64)))
    split = split_text(tmp_path / "text.txt")
    assert (split.validation, split.test) == (["15", "47"], ["31", "63"])


def test_folder_of_files_in_order_with_any_line_ends(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffthree\r\n\r\nfour\r\n".encode())
    (tmp_path / "a.txt").write_bytes(b"one\n\n\n\ntwo")
    (tmp_path / "sub" / "c.txt").write_text("five")
    (tmp_path / "notes.md").write_text("not data")
    split = split_text(tmp_path, separator=r"\n\n")
    assert split.training == ["one", "three", "five"]
    assert (split.validation, split.test) == (["two"], ["four"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"one\n\ntwo\n\nthree", "at least 4 documents.*has 3 with the separator.*blank line"),
        ("caf\u00e9".encode("latin-1"), "must be UTF-8 text; text.txt is not, at byte 3.*iconv"),
    ],
)
def test_unusable_text(tmp_path, content, words):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        split_text(tmp_path / "text.txt")


def test_unusable_paths(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_files(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"holds no \*.txt file"):
        read_files(str(tmp_path))


def test_fingerprint_depends_on_text_and_settings():
    config = TextConfig(path="x")
    prints = {
        fingerprint({"a": b"text"}, config),
        fingerprint({"a": b"texT"}, config),
        fingerprint({"b": b"text"}, config),
        fingerprint({"a": b"text"}, dataclasses.replace(config, separator="\n")),
        fingerprint({"a": b"text"}, dataclasses.replace(config, vocab_size=300)),
    }
    assert len(prints) == 5
    # How tokens are cut into sequences does not change the tokens.
    longer = dataclasses.replace(config, sequence_length=8)
    assert fingerprint({"a": b"text"}, longer) == fingerprint({"a": b"text"}, config)


def test_tokenizer_encodes_anything_and_back():
    tokenizer = train_tokenizer(["low lower lowest " * 20], 270)
    text = "l\u00f6wer \U0001f642 <|endoftext|>\n\ttab"
    (tokens,) = encode(tokenizer, [text])
    assert tokens[-1] == END_TOKEN
    assert END_TOKEN not in tokens[:-1]
    assert tokenizer.decode(tokens[:-1].tolist()) == text
    assert len(encode(tokenizer, ["lower"])[0]) < 6  # merges were learned


def test_tokens_are_cached_and_a_damaged_cache_is_made_anew(tmp_path, config):
    files, messages = read_files(config.data.path), []
    first = prepare_tokens(files, config.data, tmp_path / "cache", messages.append)
    (folder,) = (tmp_path / "cache").iterdir()
    before = (folder / TOKENS).stat().st_mtime_ns
    again = prepare_tokens(files, config.data, tmp_path / "cache", messages.append)
    assert (folder / TOKENS).stat().st_mtime_ns == before
    assert not messages
    for damage in (lambda: (folder / TOKENS).write_bytes(b"\0" * 99), (folder / MANIFEST).unlink):
        damage()
        again = prepare_tokens(files, config.data, tmp_path / "cache", messages.append)
        assert torch.equal(again.training, first.training)
        assert all(map(torch.equal, again.held_out["test"], first.held_out["test"]))
    assert len(messages) == 2
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_tokens_that_several_need_at_the_same_time_are_made_once(tmp_path, config, monkeypatch):
    made = []

    def slowly(*arguments):
        made.append(arguments)
        time.sleep(0.2)  # the others come meanwhile
        return train_tokenizer(*arguments)

    monkeypatch.setattr(tokens_file, "train_tokenizer", slowly)
    files = read_files(config.data.path)
    with ThreadPoolExecutor(3) as threads:
        texts = list(threads.map(lambda _: prepare_tokens(files, config.data, tmp_path / "cache", print), range(3)))
    assert len(made) == 1
    assert all(torch.equal(text.training, texts[0].training) for text in texts)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_vocabulary_is_trained_on_training_documents_alone(tmp_path):
    documents = ["common words here"] * 3 + ["zyzzyva zyzzyva zyzzyva"]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    config = TextConfig(path=str(tmp_path / "text.txt"), separator="\n\n", vocab_size=300)
    text = prepare_tokens(read_files(config.path), config, tmp_path, print)
    assert len(text.held_out["test"][0]) == len(documents[3]) + 1  # no merge of its letters, and the end token


def documents_of(tokens):
    ends = [number + 1 for number, token in enumerate(tokens) if token == END_TOKEN]
    return [tokens[first:end] for first, end in zip([0, *ends], ends, strict=False)]


def test_a_confirmation_is_judged_by_documents_that_others_train_on_and_it_does_not(tmp_path, config):
    text = prepare_tokens(read_files(config.data.path), config.data, tmp_path, print)
    training, held_out = text.of("confirmation")
    others = {part: [d.tolist() for d in text.of(part)[1]] for part in ("validation", "test")}
    assert held_out
    assert not any(d.tolist() in documents for d in held_out for documents in others.values())
    assert len(training) + sum(map(len, held_out)) == len(text.training)
    assert all(d[-1] == END_TOKEN and (d == END_TOKEN).sum() == 1 for d in held_out)
    whole, rest = (documents_of(tokens.tolist()) for tokens in (text.training, training))
    back = [d.tolist() for d in held_out]
    assert [d for d in whole if d not in back] == rest
    assert [d for d in whole if d in back] == back


def test_an_epoch_holds_every_chunk_once():
    length, batch_size = 7, 4
    tokens = torch.arange(1000)
    batches = TrainingBatches(tokens, sequence_length=length, batch_size=batch_size, seed=3)
    chunks = (len(tokens) - 1) // length
    rows = torch.cat([batches[k][0] for k in range(-(-2 * chunks // batch_size))])[:, 0]
    every = torch.arange(chunks) * length
    assert torch.equal(rows[:chunks].sort().values, every)
    assert torch.equal(rows[chunks : 2 * chunks].sort().values, every)
    assert not torch.equal(rows[:chunks], rows[chunks : 2 * chunks])


def test_a_batch_depends_on_seed_and_position_alone():
    def make(seed=0, batch_size=4):
        return TrainingBatches(torch.arange(500), sequence_length=6, batch_size=batch_size, seed=seed)

    used, fresh = make(), make()
    for k in (40, 3, 0, 57):
        used[k]
    assert torch.equal(used[21][0], fresh[21][0])
    assert not torch.equal(make(seed=1)[21][0], fresh[21][0])
    # Two accumulated batches of half the size hold the samples of one batch, across the end of an epoch too.
    halves = make(batch_size=2)
    for k in (0, 20):
        assert torch.equal(torch.cat([halves[2 * k][0], halves[2 * k + 1][0]]), fresh[k][0])


def test_text_too_short_for_a_batch():
    with pytest.raises(ValueError, match=r"one batch of 4 x 16 tokens; it has 64.*smaller batch size"):
        TrainingBatches(torch.arange(64), sequence_length=16, batch_size=4, seed=0)


def test_windows_predict_every_token_once_and_do_not_cross_documents():
    documents = [torch.tensor([*range(10 * d + 1, 10 * d + n), END_TOKEN]) for d, n in ((1, 5), (2, 8), (3, 1))]
    inputs, targets = evaluation_windows(documents, 4)
    assert targets[targets >= 0].tolist() == torch.cat(documents).tolist()
    for row in inputs.tolist():
        assert len({token // 10 for token in row if token}) <= 1


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_evaluation_is_the_mean_over_all_tokens(config, batch_size):
    config = dataclasses.replace(config, batch_size=batch_size)
    model = config.model.build_model(**config.data.sizes, seed=config.seed).double()
    tokens = torch.randint(1, 280, (400,))
    documents = [*tokens[:90].split([37, 50, 3]), tokens[90:91]]
    text = TokenizedText(training=tokens.repeat(6), held_out={"validation": [tokens], "test": documents})
    task = LanguageModelling(config, config.data, text, torch.device("cpu"))

    # One token at a time, in float64: the loss of token i given the tokens of its window before it.
    losses = []
    for document in documents:
        inputs = torch.cat([torch.tensor([END_TOKEN]), document[:-1]])
        for i, target in enumerate(document):
            context = inputs[i // 16 * 16 : i + 1]
            logits = model(input_ids=context[None]).logits[0, -1]
            losses.append(-logits.log_softmax(-1)[target].item())
    # Float64, but for the norms and rotations of the model, which round to float32 (6e-8).
    assert task.held_out_loss(model) == pytest.approx(sum(losses) / 91, rel=1e-7)


def test_model_depends_on_its_arguments_alone(config):
    state = torch.random.get_rng_state()
    first = config.model.build_model(vocab_size=280, sequence_length=16, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    again = config.model.build_model(vocab_size=280, sequence_length=16, seed=0)
    other = config.model.build_model(vocab_size=280, sequence_length=16, seed=1)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
        assert "norm" in name or not torch.equal(a, c)
    assert first.lm_head.weight.data_ptr() != first.model.embed_tokens.weight.data_ptr()
