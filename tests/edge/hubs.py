"""A Hub on loopback, with the faults a test asks for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

DATA = bytes(range(256)) * 20_000  # 5 MB


class Hub:
    """A Hub on loopback: range requests, files, and the faults a test asks for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"tiny-Q4_K_M.gguf": DATA, "tiny-Q8_0.gguf": DATA[::-1]}
        self.break_after: list[int] = []  # bytes after which each answer breaks off
        self.ranges = True
        self.needs_token = ""
        self.lie = False
        self.owner, self.repo = "me", "tiny"
        self.hold: threading.Event | None = None  # before the second half of a file
        self.asked: list[tuple[str, str | None, str | None]] = []
        hub_ = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub_.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        token = to.headers.get("authorization")
        self.asked.append((to.path, to.headers.get("range"), token))
        if self.needs_token and token != f"Bearer {self.needs_token}":
            self.refuse(to, 401)
        elif to.path.startswith("/api/models?"):
            self.send(to, json.dumps(self.found(parse_qs(urlsplit(to.path).query))).encode())
        elif to.path.startswith(f"/api/models/{self.owner}/{self.repo}/revision/"):
            self.send(to, json.dumps({"siblings": self.siblings(), "more": 1}).encode())
        elif to.path.startswith(f"/{self.owner}/{self.repo}/resolve/main/"):
            self.send(to, self.files[to.path.rpartition("/")[2]])
        else:
            self.refuse(to, 404)

    def found(self, asked: dict[str, list[str]]) -> list[dict[str, object]]:
        """Return what a search finds: this repository, where its name has the words."""
        assert asked["filter"] == ["gguf"] and asked["sort"] == ["downloads"]
        name = f"{self.owner}/{self.repo}"
        there = {"id": name, "downloads": 1234, "likes": 5, "gated": "manual", "tags": ["gguf"]}
        return [there, {"id": "../etc", "downloads": 1}] if asked["search"][0] in name else []

    def siblings(self) -> list[dict[str, object]]:
        lie = b"x" if self.lie else b""
        return [
            {
                "rfilename": name,
                "size": len(data),
                "lfs": {"sha256": hashlib.sha256(data + lie).hexdigest(), "size": len(data)},
            }
            for name, data in self.files.items()
        ]

    def refuse(self, to: BaseHTTPRequestHandler, status: int) -> None:
        to.send_response(status)
        to.send_header("content-length", "0")
        to.end_headers()

    def send(self, to: BaseHTTPRequestHandler, data: bytes) -> None:
        asked = to.headers.get("range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        to.send_response(206 if start else 200)
        to.send_header("content-length", str(len(data) - start))
        to.end_headers()
        is_file = "/resolve/" in to.path
        limit = self.break_after.pop(0) if self.break_after and is_file else len(data)
        end = start + limit
        if self.hold is not None and is_file:
            to.wfile.write(data[start : end // 2])
            to.wfile.flush()
            self.hold.wait(10)
            start = end // 2
        with contextlib.suppress(OSError):  # the reader may have gone
            to.wfile.write(data[start:end])
