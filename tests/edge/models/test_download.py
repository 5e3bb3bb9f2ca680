"""Models are fetched: from a Hub that breaks off, lies, or wants a token."""

from __future__ import annotations

import hashlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from edge.models.download import TRIES, DownloadError, DownloadTarget, fetch
from edge.models.local_models import list_models
from edge.models.model_files import delete, removable
from edge.models.pull import pull
from tests.edge.hubs import DATA, Hub

DIGEST = hashlib.sha256(DATA[::-1]).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_broken_connection_goes_on_where_it_stopped(there: Hub, folder: Path) -> None:
    there.break_after = [1_000_000, 2_000_000, 500_000]
    done = pull("me/tiny", folder)
    assert Path(done.path).read_bytes() == DATA
    ranges = [ranged for path, ranged, _ in there.asked if "/resolve/" in path]
    assert ranges == [None, "bytes=1000000-", "bytes=3000000-", "bytes=3500000-"]


def test_what_an_earlier_try_left_is_used(there: Hub, folder: Path) -> None:
    (folder / "me/tiny").mkdir(parents=True)
    (folder / "me/tiny/.tiny-Q4_K_M.gguf.partial").write_bytes(DATA[:4_000_000])
    assert Path(pull("me/tiny", folder).path).read_bytes() == DATA
    assert there.asked[-1][1] == "bytes=4000000-"


def test_a_server_without_ranges_sends_the_whole_anew(there: Hub, folder: Path) -> None:
    there.ranges, there.break_after = False, [1_000_000]
    assert Path(pull("me/tiny", folder).path).read_bytes() == DATA


def test_leavings_of_another_version_are_thrown_away(there: Hub, folder: Path) -> None:
    (folder / "me/tiny").mkdir(parents=True)
    (folder / "me/tiny/.tiny-Q4_K_M.gguf.partial").write_bytes(b"old" * 1000)
    assert Path(pull("me/tiny", folder).path).read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing_behind(there: Hub, folder: Path) -> None:
    there.lie = True
    with pytest.raises(DownloadError, match="checksum"):
        pull("me/tiny", folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_download_that_never_comes_on_gives_up_and_says_how_to_go_on(
    there: Hub, folder: Path
) -> None:
    there.break_after = [1000, *[0] * 50]
    wanted = DownloadTarget(
        url=f"{there.url}/me/tiny/resolve/main/tiny-Q8_0.gguf", size_bytes=len(DATA), sha256=DIGEST
    )
    waits: list[float] = []
    with pytest.raises(DownloadError, match=r"1,000 bytes.*same command again"):
        fetch(wanted, folder / "file.gguf", wait=waits.append)
    assert len(waits) == TRIES - 1 and waits == sorted(waits)
    assert not (folder / "file.gguf").exists()


def test_a_gated_model_wants_a_token_and_gets_it(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.needs_token = "secret"
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        pull("me/tiny", folder)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert Path(pull("me/tiny", folder).path).exists()


def test_a_token_never_follows_to_another_host(there: Hub, folder: Path) -> None:
    other = Hub()
    try:
        there.answer = lambda to: _redirect(to, f"http://localhost:{other.url[-5:]}{to.path}")  # type: ignore[method-assign]
        url = f"{there.url}/me/tiny/resolve/main/tiny-Q8_0.gguf"
        wanted = DownloadTarget(url=url, size_bytes=len(DATA), sha256=DIGEST)
        fetch(wanted, folder / "file.gguf", headers={"Authorization": "Bearer secret"})
        assert [token for _, _, token in other.asked] == [None]
    finally:
        other.close()


def _redirect(to: BaseHTTPRequestHandler, where: str) -> None:
    to.send_response(302)
    to.send_header("location", where)
    to.send_header("content-length", "0")
    to.end_headers()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("me/tiny:Q2_K", "tiny-Q4_K_M.gguf"),
        ("me/tiny/other.gguf", "tiny-Q4_K_M.gguf"),
        ("me/nothing", "check its name"),
        ("nonsense", "OWNER/REPO"),
        ("file:///etc/passwd", "OWNER/REPO"),
    ],
)
def test_a_name_that_is_not_there_says_what_is(
    there: Hub, folder: Path, name: str, words: str
) -> None:
    with pytest.raises(DownloadError, match=words):
        pull(name, folder)


def test_a_hub_that_cannot_be_reached_names_the_mirror(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="HF_ENDPOINT"):
        pull("me/tiny", folder)


def test_a_full_disk_and_a_full_memory_are_said_before_a_byte(
    there: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = DownloadTarget(url=f"{there.url}/file", size_bytes=1 << 60, sha256=DIGEST)
    with pytest.raises(DownloadError, match="of disk"):
        fetch(huge, folder / "huge.gguf")
    monkeypatch.setattr("edge.models.pull.free_memory_bytes", lambda: 1_000_000)
    with pytest.raises(DownloadError, match="--anyway"):
        pull("me/tiny", folder)
    assert not any("/resolve/" in path for path, _, _ in there.asked)
    assert pull("me/tiny", folder, anyway=True).size_bytes == len(DATA)


def test_all_parts_of_a_split_model_are_fetched_and_removed(there: Hub, folder: Path) -> None:
    there.files = {f"big-Q8_0-0000{n}-of-00003.gguf": bytes([n]) * 1000 for n in (1, 2, 3)}
    done = pull("me/tiny", folder)
    assert Path(done.path).name == "big-Q8_0-00001-of-00003.gguf"
    assert len([entry for entry in list_models(folder) if not entry.embedded]) == 1
    files = removable(done.name, folder)
    delete(files, folder)
    assert len(files) == 3 and not any(folder.iterdir())


def test_a_hugging_face_folder_is_fetched_whole(there: Hub, folder: Path) -> None:
    there.files = {"config.json": b"{}", "model.safetensors": b"w" * 1000, "README.md": b"no"}
    done = pull("me/tiny", folder)
    assert sorted(path.name for path in Path(done.path).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert [entry.runs for entry in list_models(folder)][-1] == "cloud"


def test_a_file_name_cannot_leave_the_folder(there: Hub, folder: Path) -> None:
    there.files = {"../../evil.json": b"{}", "model.safetensors": b"w"}
    with pytest.raises(DownloadError, match="outside"):
        pull("me/tiny", folder)
