"""A stand-in for the Hugging Face hub: as much of its HTTP interface as is used to stream files of text."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "1" * 40
REPOSITORY = "(datasets|models)/([^/]+/[^/]+)"
# The card of allenai/c4, as far as it says which files are in which split.
C4_CARD = b"""---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
---
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Mapping[str, Mapping[str, bytes]]

    def log_message(self, *_: object) -> None:
        """Nothing: the output is that of the program under test."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        if found := re.fullmatch(f"/api/{REPOSITORY}(?:/revision/[^/]+)?", path):
            self._about(*found.groups())
        elif found := re.fullmatch(f"/api/{REPOSITORY}/tree/[^/]+/?(.*)", path):
            self._tree(*found.groups(), recursive=parse_qs(url.query).get("recursive") == ["true"])
        elif found := re.fullmatch("/(?:(datasets)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(found[1] or "models", found[2], found[3])
        else:
            self._answer(200 if path == "/" else 404)

    do_HEAD = do_GET  # noqa: N815

    def _about(self, kind: str, name: str) -> None:
        files = self.repositories.get(f"{kind}/{name}")
        if files is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            siblings = [{"rfilename": path} for path in files]
            self._answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def _tree(self, kind: str, name: str, folder: str, *, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for path, content in self.repositories[f"{kind}/{name}"].items():
            first, slash, _ = path.removeprefix(prefix).partition("/")
            if path.startswith(prefix) and slash:
                entries[prefix + first] = {"type": "directory", "path": prefix + first, "oid": COMMIT, "size": 0}
            if path.startswith(prefix) and (recursive or not slash):
                entries[path] = {"type": "file", "path": path, "oid": _tag(content), "size": len(content)}
        if entries:
            self._answer(200, json.dumps(list(entries.values())).encode())
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _file(self, kind: str, name: str, path: str) -> None:
        content = self.repositories.get(f"{kind}/{name}", {}).get(path)
        if content is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_tag(content)}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            self._answer(200, content, headers)
        else:
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._answer(206, content[first : last + 1], headers)

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """The address, for HF_ENDPOINT, of a hub.

    Args:
        repositories: content by path, by "datasets/OWNER/NAME" or "models/OWNER/NAME".
    """
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
