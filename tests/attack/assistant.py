"""The attack on the assistant: its token, the names it answers to, bodies, and connections."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import httpx

from tests.attack.http_bodies import silence
from tests.attack.page_text import growths, node, page_texts, runaways
from tests.attack.started import MOST_WAIT_S, Report

_PATHS = ("status", "conversations", "conversations/x", "conversations/x/stream", "nothing")
_HOSTS = (
    "", "evil.example", "127.0.0.1.evil.example", "evil.example#127.0.0.1",
    "localhost.evil.example",
    "127.0.0.1@evil.example", "127.0.0.1:80@evil.example", "[::1].evil.example", "0.0.0.0", "127.1",
    "2130706433", "0x7f000001", "localhost.", "127.0.0.1.", "127.0.0.1:", "127.0.0.1:a", "::1",
    "127.0.0.1, evil.example", "evil.example:127.0.0.1", "local\thost", "lo\u0441alhost",
    "[::ffff:7f00:1]",
)  # fmt: skip
_ORIGINS = ("http://evil.example", "null", "http://127.0.0.1", "file://", "", "http://127.0.0.1:1")
_BODIES: tuple[tuple[str, bytes], ...] = (
    ("letters that are no UTF-8", b'{"text": "\xff\xfe"}'),
    ("half a surrogate", b'{"text": "\\ud800"}'),
    ("deep JSON", b'{"text": ' + b"[" * 1_000_000),
    ("empty lists", b'{"text": [' + b"[]," * 1_000_000 + b"1]}"),
    ("a NUL", b'{"text": "\\u0000", "title": "\\u0000"}'),
    ("a number for text", b'{"text": 1e999, "window": 1e999, "title": 7, "reply": []}'),
    ("nothing", b""),
    ("unknown fields", b'{"__proto__": {}, "constructor": 1}'),
    ("megabytes of words", json.dumps({"text": "hello world " * 300_000}).encode()),
    ("a title of a megabyte", json.dumps({"title": "A" * 1_000_000}).encode()),
    ("terminal escapes", json.dumps({"text": "\x1b]52;c;aGk=\x07", "title": "\x1b[2J"}).encode()),
)
_SETTINGS: tuple[dict[str, Any], ...] = (
    {"window": 2**70}, {"window": -2}, {"window": 1}, {"model": "m" * 100_000}, {"model": ""},
    {"model": "../../etc/passwd"}, {"model": "/etc/passwd"}, {"model": "\0"},
    {"kv_cache_dtype": "x" * 1000}, {"private": "no"}, {"kv_cache_dtype": ""},
    {"model": "nowhere.gguf"},
)  # fmt: skip
_IDS = ("..%2f..%2fetc", "%00", "x" * 5000, "' OR 1=1 --", "%ff", "-1", "*")


def attack_assistant(link: str, report: Report) -> None:
    """Attack the assistant whose page is at this link, which holds its token."""
    url, _, token = link.partition("/#token=")
    trials = {
        "assistant: no path of it without the token": lambda: _without_token(url, token),
        "assistant: names that are none of this machine's": lambda: _by_other_names(url, token),
        "assistant: requests of other pages": lambda: _from_other_pages(url, token),
        "assistant: two heads in one": lambda: _smuggled(url, token),
        "assistant: settings that cannot be": lambda: _bad_settings(url, token),
        "assistant: bodies and names of conversations": lambda: _bad_bodies(url, token),
    }
    report.each(trials)
    silence(url, "/", report)


def attack_markdown(report: Report) -> None:
    """Attack what reads Markdown on the page, which needs no server."""
    report.each({"assistant: Markdown that its page reads": _markdown})


def _api(url: str, token: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/api/", headers=headers, timeout=6 * MOST_WAIT_S)


def _is_well(client: httpx.Client) -> str:
    answered = client.get("status", timeout=MOST_WAIT_S)
    if answered.status_code == 200:
        return ""
    return f"then /api/status says {answered.status_code}: {answered.text[:200]}"


def _without_token(url: str, token: str) -> str:
    wrong = ("", "Bearer", "Bearer ", f"Bearer {token[:-1]}", f"Bearer {token}x", f"Basic {token}",
             f"bearer {token}", f"Bearer {token.swapcase()}", f"Bearer {token}\u00e9",
             "Bearer \0")  # fmt: skip
    for path in (*_PATHS, *(f"status?token={token}",)):
        for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD"):
            for given in (*wrong, None):
                head = "" if given is None else f"Authorization: {given}\r\n"
                got = _raw(url, f"{method} /api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}")
                if got not in (400, 401):
                    return f"{method} /api/{path} with {given!r}: {got}"
    return ""


def _by_other_names(url: str, token: str) -> str:
    for host in _HOSTS:
        for path in ("/", "/api/status", "/page/app.js"):
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            if (got := _raw(url, head)) not in (400, 403):
                return f"{path} as {host!r}: {got}"
    return ""


def _from_other_pages(url: str, token: str) -> str:
    for origin in _ORIGINS:
        head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nOrigin: {origin}\r\n"
        if origin == "http://127.0.0.1":  # the right name, but of another port
            head = head.replace("Host: 127.0.0.1", f"Host: {httpx.URL(url).netloc.decode()}")
        if (got := _raw(url, f"POST /api/conversations HTTP/1.1\r\n{head}")) != 403:
            return f"from {origin!r}: {got}"
    return ""


def _smuggled(url: str, token: str) -> str:
    bearer = f"Authorization: Bearer {token}\r\n"
    for head in (
        "Host: 127.0.0.1\r\nHost: evil.example\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "Host: 127.0.0.1\r\nContent-Length: -1\r\n",
        "Host: 127.0.0.1\r\nContent-Length: 99999999999999999999999\r\n",
        "Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n",
        "Host : 127.0.0.1\r\n",
        "X: " + "y" * 100_000 + "\r\n",
    ):
        got = _raw(url, f"POST /api/conversations HTTP/1.1\r\n{bearer}{head}")
        if not 400 <= got < 500:
            return f"{head[:60]!r}: {got}"
    return ""


def _bad_settings(url: str, token: str) -> str:
    with _api(url, token) as client:
        before = client.get("status").json()
        for change in _SETTINGS:
            got = client.patch("settings", json=change).status_code
            if got != 400:
                return f"{str(change)[:60]}: {got}"
            if told := _is_well(client):
                return f"{str(change)[:60]}: {told}"
        after = client.get("status").json()
    kept = ("chosen", "window", "kv_cache_dtype", "private")
    return "" if all(before[name] == after[name] for name in kept) else f"{before} became {after}"


def _bad_bodies(url: str, token: str) -> str:
    with _api(url, token) as client:
        mine = client.post("conversations").json()["id"]
        for name, body in _BODIES:
            for method, path in (
                ("POST", f"conversations/{mine}/ask"), ("PATCH", f"conversations/{mine}"),
                ("POST", f"conversations/{mine}/consent"), ("PATCH", "settings"),
            ):  # fmt: skip
                got = client.request(method, path, content=body).status_code
                client.post(f"conversations/{mine}/stop")
                if got >= 500:
                    return f"{name} to {path}: {got}"
                if told := _is_well(client):
                    return f"{name} to {path}: {told}"
        for each in _IDS:
            for path in (f"conversations/{each}", f"conversations/{each}/export?form=x"):
                if (got := client.get(path).status_code) >= 500:
                    return f"{path[:60]}: {got}"
        client.get("conversations", params={"q": '" OR NEAR( * "' * 500}).raise_for_status()
        return _is_well(client)


def _markdown() -> str:
    if (found := node()) is None:
        return ""
    slow = runaways(growths(found, page_texts()))
    slow = runaways(growths(found, [each.text for each in slow]))  # others use this machine, too
    return "; ".join(f"{each.text} in {each.long_ms:.0f} ms" for each in slow)


def _raw(url: str, head: str) -> int:
    """Send a head as it stands, and return the status of its answer; 400 for none."""
    where = httpx.URL(url)
    with socket.create_connection((where.host, where.port or 0), timeout=MOST_WAIT_S) as line:
        line.sendall(f"{head}Connection: close\r\n\r\n".encode())
        got = line.recv(4096)
    found = re.match(rb"HTTP/1.1 (\d{3})", got)
    return int(found[1]) if found else 400
