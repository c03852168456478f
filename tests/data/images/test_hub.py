"""Images from the Hugging Face hub, played by a server of this process."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import huggingface_hub
import pytest
from stored_images import encoded, pictures, write_parquet

from htmuon.cli import main
from htmuon.data.images.opening import PREFIX, download

NAME, COMMIT = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Answers of the hub by path; a (status, headers, body) for every path that is asked for."""
    answers, asked = {}, []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers.get(self.path.partition("?")[0], answers.get("*", (404, {}, b"")))
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args):
            """Keep the output of the tests clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield answers, asked
    server.shutdown()
    server.server_close()


def run(tmp_path, recipe="resnet18-cifar10"):
    small = ["--model.width", "4", "--batch-size", "4", "--steps", "1", "--device", "cpu"]
    return main(["train", recipe, "--out", str(tmp_path / "run"), *(small if "resnet" in recipe else [])])


def test_a_gated_set_asks_for_the_licence_and_a_login(tmp_path, hub, capsys):
    answers, _ = hub
    answers["*"] = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b"")
    assert run(tmp_path, "vit-tiny-imagenet") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "accept it at https://huggingface.co/datasets/ILSVRC/imagenet-1k and log in with `hf auth login`" in line
    assert "--data PATH" in line


def test_a_name_that_the_hub_does_not_have(tmp_path, hub, capsys):
    answers, _ = hub
    answers["*"] = (404, {"X-Error-Code": "RepoNotFound"}, b"")
    assert run(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "hf://datasets/uoft-cs/cifar10 are not on the Hugging Face hub: check the name" in line


def test_a_name_that_is_none(tmp_path, hub, capsys):
    assert main(["train", "resnet18-cifar10", "--data", "hf://datasets/a/b/c", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fetching the images hf://datasets/a/b/c failed (Repo id must be in the form" in line


def serve(answers, tmp_path, files):
    """Let the hub have these parquet files, with so many images each."""
    siblings = [{"rfilename": name} for name in (*files, "README.md")]
    described = json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings, "private": False}).encode()
    for revision in ("main", COMMIT):
        answers[f"/api/datasets/{NAME}/revision/{revision}"] = (200, {}, described)
    tree = [{"type": "file", "path": name, "size": 1, "oid": name} for name in (*files, "README.md")]
    answers[f"/api/datasets/{NAME}/tree/{COMMIT}"] = (200, {}, json.dumps(tree).encode())
    for name, count in files.items():
        pixels, labels = pictures(count, size=(32, 32))
        write_parquet(tmp_path / "served" / name, [encoded(picture) for picture in pixels], labels)
        content = (tmp_path / "served" / name).read_bytes()
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
        answers[f"/datasets/{NAME}/resolve/{COMMIT}/{name}"] = (200, headers, content)


def test_images_are_fetched_once(tmp_path, hub, capsys):
    answers, asked = hub
    serve(
        answers, tmp_path, {f"plain_text/{part}-00000-of-00001.parquet": n for part, n in (("train", 12), ("test", 6))}
    )
    assert run(tmp_path) == 0, asked
    assert not any("README" in path for path in asked)
    asked.clear()
    capsys.readouterr()
    assert main(["train", "resnet18-cifar10", "--out", str(tmp_path / "again")]) == 2
    assert "must fill one batch of 128; there are 12" in capsys.readouterr().err  # the same images, without a download
    assert not any("resolve" in path for path in asked)


@pytest.mark.parametrize("test_file", ["data/test-00000-of-00001.parquet", "test/0000.parquet", "test.parquet"])
def test_test_files_are_not_fetched_where_there_are_validation_files(tmp_path, hub, test_file):
    answers, asked = hub
    files = {"data/train-00000-of-00001.parquet": 12, "data/validation-00000-of-00001.parquet": 6}
    serve(answers, tmp_path, {**files, test_file: 6})
    assert run(tmp_path) == 0
    fetched = {path.partition(f"{COMMIT}/")[2] for path in asked if "resolve" in path}
    assert fetched == set(files)


def test_a_download_that_was_interrupted_is_not_all_the_images(tmp_path, hub, capsys):
    answers, _ = hub
    names = [f"plain_text/train-0000{number}-of-00003.parquet" for number in range(3)]
    serve(answers, tmp_path, {**dict.fromkeys(names, 4), "plain_text/test-00000-of-00001.parquet": 6})
    cache = download(f"{PREFIX}{NAME}")
    (cache / names[1]).unlink()
    capsys.readouterr()
    answers.clear()
    answers["*"] = (503, {}, b"Down\nfor maintenance.")
    assert run(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "are not all on this computer and the Hugging Face hub could not be reached (Server error" in line


def test_a_cache_without_a_listing_lacks_files(tmp_path, hub, capsys):
    # As versions of huggingface_hub leave it that keep no list of what there is to fetch.
    stored = tmp_path / "hub" / "datasets--uoft-cs--cifar10"
    pixels, labels = pictures(6, size=(32, 32))
    for name in ("train-00000-of-00003", "test-00000-of-00001"):
        write_parquet(stored / "snapshots" / COMMIT / f"{name}.parquet", [encoded(image) for image in pixels], labels)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)
    answers, _ = hub
    answers["*"] = (503, {}, b"")
    capsys.readouterr()
    assert run(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks train-00001-of-00003.parquet, train-00002-of-00003.parquet. Put them there; files of the hub" in line


def test_without_a_network_there_is_one_sentence_at_once(tmp_path, monkeypatch, capsys):
    def no_network(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    began = time.monotonic()
    assert run(tmp_path, "resnet50-cifar100") == 2
    assert time.monotonic() - began < 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "uoft-cs/cifar100 are not on this computer and the Hugging Face hub could not be reached" in line
    assert "or give local images with --data PATH" in line
