"""A registry on loopback that the real Ollama pulls from: the test models, as a registry of Ollama's kind serves them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.engines.process import CACHE

_PIECE = 65536
_PATH = re.compile(r"/v2/([^/]+/[^/]+)/(manifests|blobs)/([^/?]+)")


class Registry:
    """Serves what is in an Ollama's folder of models, and keeps what it was asked for."""

    def __init__(self, models: Path) -> None:
        self.asked: list[str] = []
        self.slow = False  # a few hundred kilobytes a second
        self.left = threading.Event()  # somebody hung up before all was sent
        asked, registry = self.asked, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path}")
                match = _PATH.match(self.path)
                found = match and _file(models, match[1], match[2], match[3])
                if not found or not found.exists():
                    self._send(404, json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN"}]}).encode())
                    return
                if self.command == "GET" and match[2] == "blobs" and self.headers["Host"].startswith("127."):
                    # Ollama wants to be sent elsewhere for the parts of a blob: another host's name is elsewhere.
                    self._send(307, b"", {"Location": f"http://localhost:{self.server.server_address[1]}{self.path}"})
                    return
                data = found.read_bytes()
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if wanted:
                    first, last = int(wanted[1]), int(wanted[2])
                    self._send(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})
                else:
                    self._send(200, data)

            do_HEAD = do_GET

            def _send(self, status: int, body: bytes, more: Mapping[str, str] = MappingProxyType({})) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                try:
                    for at in range(0, len(body), _PIECE):
                        self.wfile.write(body[at : at + _PIECE])
                        if registry.slow:
                            time.sleep(0.2)
                except ConnectionError:
                    registry.left.set()

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Listens no more."""
        self.server.shutdown()
        self.server.server_close()


def _file(models: Path, name: str, kind: str, reference: str) -> Path:
    if kind == "blobs":
        return models / "blobs" / reference.replace(":", "-")
    return models / "manifests" / "registry.ollama.ai" / name / reference


@pytest.fixture
def registry() -> Iterator[Registry]:
    """With `library/all-minilm` and `library/smollm2:135m`."""
    found = Registry(CACHE / "models")
    yield found
    found.stop()
