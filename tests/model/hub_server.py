"""A server on loopback that speaks as much of the Hugging Face hub's protocol as a pull needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
LARGE = (".safetensors", ".gguf")


@dataclass
class FakeHub:
    """Repositories by name, and how the server misbehaves. `requests` is what was asked."""

    files: dict[str, dict[str, bytes]]
    commit: str = COMMIT
    cut_after: list[int] = field(default_factory=list)  # bytes sent before each next cut
    ignore_ranges: bool = False
    corrupt: str = ""  # the file that comes damaged
    gated: bool = False
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    endpoint: str = ""

    def listing(self, repository: str) -> dict[str, object]:
        return {
            "id": repository,
            "modelId": repository,
            "sha": self.commit,
            "siblings": [_sibling(name, data) for name, data in self.files[repository].items()],
        }


def _sibling(name: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
    if name.endswith(LARGE):
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(path)
        if listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._list(*listed.groups())
        elif resolved := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._redirect("/cdn/{}/{}".format(*resolved.group(1, 3)))
        elif stored := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._content(*stored.groups())
        else:
            self._json(404, {"error": "no such page"})

    def _list(self, repository: str, revision: str | None) -> None:
        hub = self.server.hub
        if hub.gated:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif repository not in hub.files:
            self._json(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in (None, "main", hub.commit):
            self._json(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._json(200, hub.listing(repository))

    def _content(self, repository: str, name: str) -> None:
        hub = self.server.hub
        data = hub.files[repository][name]
        if name == hub.corrupt:
            data = bytes(len(data))
        start = 0
        if (asked := self.headers.get("Range")) and not hub.ignore_ranges:
            hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if hub.cut_after and name.endswith(LARGE):
            self.wfile.write(data[start : start + hub.cut_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data[start:])

    def _redirect(self, path: str) -> None:
        self.send_response(302)
        self.send_header("Location", path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the server while the block lasts; `hub.endpoint` is its address."""
    server = _Server(hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
