"""What the Hub answers: refusals told apart, pauses kept, and nothing larger than it promised."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from edge.models import hub
from edge.models.download import DownloadError, DownloadTarget, fetch, read_small
from edge.models.pull import pull
from tests.edge.hubs import DATA, Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def refusing(there: Hub, status: int, **headers: str) -> None:
    def answer(to: BaseHTTPRequestHandler) -> None:
        to.send_response(status)
        for name, value in {**headers, "content-length": "0"}.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()

    there.answer = answer  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"X_Error_Code": "RepoNotFound"}, "check its name"),
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}, "expired"),
        (403, {"X_Error_Code": "GatedRepo"}, "accept its terms"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "no such revision"),
        (401, {}, "accept its terms"),
        (418, {}, "status 418"),
    ],
)
def test_a_refusal_is_told_by_its_reason(
    there: Hub, folder: Path, status: int, headers: Mapping[str, str], words: str
) -> None:
    refusing(there, status, **headers)
    with pytest.raises(DownloadError, match=words):
        pull("me/tiny", folder)


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", ""])
def test_a_token_may_end_in_a_line_end(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    there.needs_token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", f"hf_secret{end}")
    assert Path(pull("me/tiny", folder).path).exists()


@pytest.mark.parametrize(
    "token", ["\u201chf_secret\u201d", "hf_se\ncret", "hf_\x1bsecret", "hf se"]
)
def test_a_token_that_is_none_is_never_shown(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DownloadError, match="HF_TOKEN has a character") as told:
        pull("me/tiny", folder)
    assert "secret" not in str(told.value)
    assert there.asked == []


def test_a_kept_token_lies_where_hf_home_says(
    there: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.needs_token = "kept"
    (tmp_path / "token").write_text("kept\n")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert Path(pull("me/tiny", folder).path).exists()


def busy(there: Hub, times: int, retry_after: str) -> None:
    answer, left = there.answer, [times]

    def slow_down(to: BaseHTTPRequestHandler) -> None:
        if left[0]:
            left[0] -= 1
            to.send_response(429)
            to.send_header("retry-after", retry_after)
            to.send_header("content-length", "0")
            to.end_headers()
        else:
            answer(to)

    there.answer = slow_down  # type: ignore[method-assign]


@pytest.mark.parametrize("zone", [None, "GMT", "-0000"])
def test_a_hub_that_asks_for_patience_gets_it(
    there: Hub, folder: Path, zone: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    retry_after = formatdate(now + 100).replace("-0000", zone) if zone else "7"
    least, most = (99, 100) if zone else (7, 7)  # a date has no parts of seconds
    waits: list[float] = []
    busy(there, 1, retry_after)
    url = f"{there.url}/me/tiny/resolve/main/tiny-Q4_K_M.gguf"
    wanted = DownloadTarget(url=url, size_bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
    fetch(wanted, folder / "file.gguf", wait=waits.append)
    monkeypatch.undo()
    time.tzset()
    assert least <= waits[0] <= most
    busy(there, 1, "3")
    read_small(
        f"{there.url}/api/models/me/tiny/revision/main", {}, 10_000, page="", wait=waits.append
    )
    assert 3 in waits


def test_a_pause_of_hours_is_said_and_not_slept(there: Hub, folder: Path) -> None:
    busy(there, 1, "7200")
    with pytest.raises(DownloadError, match="120 minutes"):
        pull("me/tiny", folder)


def test_a_file_is_never_written_beyond_what_was_promised(there: Hub, folder: Path) -> None:
    sent = b"x" * 5
    there.files = {"tiny-Q4_K_M.gguf": DATA}
    wanted = DownloadTarget(
        url=f"{there.url}/me/tiny/resolve/main/tiny-Q4_K_M.gguf",
        size_bytes=len(sent),
        sha256=hashlib.sha256(sent).hexdigest(),
    )
    with pytest.raises(DownloadError, match="sends more than the 5 bytes"):
        fetch(wanted, folder / "file.gguf")
    assert not any(folder.iterdir())


def test_a_list_without_end_is_not_read_to_it(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_LIST_BYTES", 1_000)
    there.files = {f"{n}-Q8_0.gguf": b"x" for n in range(100)}
    with pytest.raises(DownloadError, match="answers with more than"):
        pull("me/tiny", folder)


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"])
def test_a_redirect_stays_on_the_web(there: Hub, folder: Path, where: str) -> None:
    refusing(there, 302, location=where)
    with pytest.raises(DownloadError, match=r"not followed|cannot be (reached|fetched)"):
        pull("me/tiny", folder)


@pytest.mark.parametrize(
    "document",
    ["[" * 100_000, '{"siblings": 1}', '{"siblings": [{"rfilename": "x", "size": -1}]}', "\udc80"],
)
def test_a_list_that_is_none_is_one_line(there: Hub, folder: Path, document: str) -> None:
    data = document.encode("utf-8", "surrogateescape")
    there.answer = lambda to: there.send(to, data)  # type: ignore[method-assign]
    with pytest.raises(DownloadError, match="no list of files"):
        pull("me/tiny", folder)


def test_a_file_without_a_checksum_is_not_fetched(there: Hub, folder: Path) -> None:
    told = json.dumps({"siblings": [{"rfilename": "x-Q4_K_M.gguf", "size": 3}]}).encode()
    there.answer = lambda to: there.send(to, told)  # type: ignore[method-assign]
    with pytest.raises(DownloadError, match="no checksum"):
        pull("me/tiny", folder)
