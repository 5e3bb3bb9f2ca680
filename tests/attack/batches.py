"""Hostile files and batches: forms, lines, ids, lists and aborts of what an endpoint keeps."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator

import httpx

from tests.attack.http_bodies import Asked, send_each
from tests.attack.started import MOST_ANSWER_S, Report

_FORM = "multipart/form-data; boundary=B"
_IDS = (
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "file-" + "x" * 9000,
    "*",
    "' OR 1=1 --",
)
NUM_ABORTS = 40
NUM_BYTES = 1_000_001  # of a file that hangs up: no other file here has so many
NUM_BATCHES = 200


def _part(name: str, content: bytes, filename: str = "") -> bytes:
    named = f'; filename="{filename}"' if filename else ""
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode("utf-8", "surrogatepass") + content + b"\r\n"


def form(content: bytes, filename: str = "in.jsonl", purpose: bytes = b"batch") -> bytes:
    """Return the form by which a file is sent."""
    return _part("file", content, filename) + _part("purpose", purpose) + b"--B--\r\n"


def _line(number: int, **more: object) -> bytes:
    turns = [{"role": "user", "content": "hi"}]
    body = {"model": "MODEL", "max_tokens": 1, "messages": turns}
    asked = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**asked, "body": body, **more}).encode() + b"\n"


# What a file may hold that is no list of requests; a batch of each must end.
FILES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x00\xff" * 100_000,
    "deep lines": (b"[" * 100_000 + b"\n") * 20,
    "one long line": b'{"custom_id": "' + b"a" * 20_000_000,
    "a million empty lines": b"\n" * 1_000_000,
    "too many lines": b"".join(map(_line, range(50_001))),
    "one id many times": _line(1) * 2000,
    "addresses elsewhere": _line(1, url="http://127.0.0.1:1/v1/chat/completions"),
    "bodies that are none": b"".join(_line(n, body=[[]] * 1000) for n in range(50)),
}


def _forms() -> Iterator[tuple[str, bytes]]:
    yield "no boundary", b"hello" * 1000
    yield "half a form", form(_line(1))[:-20]
    yield "many parts", b"".join(_part(f"f{n}", b"x") for n in range(20_000)) + b"--B--\r\n"
    yield "many files", b"".join(_part("file", b"x", "a") for _ in range(20_000)) + b"--B--\r\n"
    yield "a long field", _part("purpose", b"x" * 5_000_000) + b"--B--\r\n"
    yield "a long head", b"--B\r\n" + b"X: " + b"y" * 2_000_000 + b"\r\n\r\n"
    yield "another purpose", form(_line(1), purpose=b"assistants")
    yield "more than a file may have", form(b"x" * (101 << 20))
    for name in ("../../x", "/etc/passwd", "a" * 100_000, "\ud800", "CON", 'a"b'):
        yield f"the name {name[:12]!r}", form(_line(1), name)


def requests_of_files() -> dict[str, Asked]:
    """Return every hostile request that needs nothing kept before it."""
    found = {f"/v1/files: {told}": Asked("/v1/files", b, kind=_FORM) for told, b in _forms()}
    found["/v1/files: JSON"] = Asked("/v1/files", b"[" * 1_000_000)
    for name in _IDS:
        for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/batches/{name}"):
            found[f"{path[:30]}"] = Asked(path, b"", "GET")
        found[f"the id {name[:12]!r} erased"] = Asked(f"/v1/files/{name}", b"", "DELETE")
        body = json.dumps({"input_file_id": name[:99], "endpoint": "/v1/chat/completions"})
        found[f"a batch of {name[:12]!r}"] = Asked("/v1/batches", body.encode())
    for limit in ("9" * 5000, "-1", "1e9", "%00"):
        found[f"a list of {limit[:6]}"] = Asked(f"/v1/batches?limit={limit}", b"", "GET")
    many = {f"k{n}": "v" for n in range(100_000)}
    body = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "metadata": many}
    found["much metadata"] = Asked("/v1/batches", json.dumps(body).encode())
    return found


async def attack_batches(url: str, model: str, report: Report) -> None:
    """Send everything; batches of what makes no sense must end, and readers be answered."""
    await send_each(url, model, requests_of_files(), report)
    report.each(
        {
            "batches of files that make no sense": lambda: _batches(url, model),
            "uploads that hang up": lambda: _aborts(url),
            "many batches at once": lambda: _many(url, model),
        }
    )


def _sent(client: httpx.Client, content: bytes) -> str:
    reply = client.post("/v1/files", content=form(content), headers={"content-type": _FORM})
    reply.raise_for_status()
    return str(reply.json()["id"])


def _begun(client: httpx.Client, file_id: str) -> str:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    reply = client.post("/v1/batches", json=body)
    reply.raise_for_status()
    return str(reply.json()["id"])


def _ended(client: httpx.Client, batch: str) -> str:
    """Wait for a batch, and return how it ended; "" where it did not."""
    for _ in range(int(MOST_ANSWER_S * 10)):
        status = str(client.get(f"/v1/batches/{batch}").json()["status"])
        if status in ("completed", "failed", "expired", "cancelled"):
            return status
        client.get("/health").raise_for_status()
        time.sleep(0.1)
    return ""


def _batches(url: str, model: str) -> str:
    wrong = []
    with httpx.Client(base_url=url, timeout=MOST_ANSWER_S) as client:
        for told, content in FILES.items():
            batch = _begun(client, _sent(client, content.replace(b"MODEL", model.encode())))
            if not _ended(client, batch):
                wrong.append(f"{told} never ends")
    return "; ".join(wrong)


def _aborts(url: str) -> str:
    where, body = httpx.URL(url), form(b"x" * NUM_BYTES)
    head = f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {_FORM}\r\n"
    for number in range(NUM_ABORTS):
        with socket.create_connection((where.host, where.port or 0)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            line.sendall(body[: number * 20_000])
    listed = httpx.get(f"{url}/v1/files", timeout=MOST_ANSWER_S).json()["data"]
    half = [each for each in listed if each["bytes"] == NUM_BYTES]
    return f"{len(half)} half files are kept" if half else ""


def _many(url: str, model: str) -> str:
    with httpx.Client(base_url=url, timeout=MOST_ANSWER_S) as client:
        file_id = _sent(client, _line(1).replace(b"MODEL", model.encode()))
        begun = [_begun(client, file_id) for _ in range(NUM_BATCHES)]
        for batch in begun[1:]:
            client.post(f"/v1/batches/{batch}/cancel").raise_for_status()
        left = [batch for batch in begun if not _ended(client, batch)]
    return f"{len(left)} never end" if left else ""
