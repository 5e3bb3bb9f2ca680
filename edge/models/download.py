"""HTTP download of one file: resumed where it broke, and checked by SHA-256 when whole."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from backbone.errors import NearfarError, cause
from backbone.terminal_text import readable_bytes
from offload.config.obstacles import obstacle

PIECE = 1 << 20
TRIES = 6  # in a row without a byte
RESERVE_BYTES = 200_000_000  # of the disk, that a download must leave free
TIMEOUT_S = 30.0
MAX_RETRY_AFTER_S = 300.0  # as long as a server may ask to be left alone for

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class DownloadError(NearfarError):
    """Download error: it cannot be made, or was not what was promised."""


class Unreachable(DownloadError):
    """A host that does not answer at all."""


@dataclass(frozen=True, kw_only=True)
class DownloadTarget:
    """Download target: one file; `sha256`, or git's `sha1` of a small file, is what it must be.

    `page` is where a person reads of it.
    """

    url: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    page: str = ""

    def __post_init__(self) -> None:
        assert self.sha256 or self.git_sha1, "what cannot be checked is not fetched"


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    """Redirect handler: follows over the web alone, and takes no token to another host."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request, without the token where the host is another."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme != "https" and after.scheme != before.scheme:
            raise DownloadError(
                f"{before.netloc} leads on to {after.scheme}://, which is not followed; "
                "try another mirror"
            )
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and after[:2] != before[:2]:
            found.remove_header("Authorization")
        return found


def open_url(url: str, headers: Mapping[str, str]) -> Any:
    """Return the open answer. Raises urllib's errors; DownloadError for other than HTTP."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not a web address; it must begin with https://")
    opener = urllib.request.build_opener(_RedirectHandler)
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S)


def read_small(
    url: str,
    headers: Mapping[str, str],
    max_bytes: int,
    *,
    page: str,
    wait: Callable[[float], None] = time.sleep,
) -> bytes:
    """Return what an address answers, up to `max_bytes`. Raises DownloadError."""
    host = "/".join(url.split("/")[:3])
    for _ in range(TRIES):
        try:
            with contextlib.closing(open_url(url, headers)) as answer:
                data: bytes = answer.read(max_bytes + 1)
        except urllib.error.HTTPError as error:
            error.close()
            wait(_pause_s(error, page, page))
            continue
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(
                f"{host} cannot be reached ({cause(error)}); check the network, "
                "or set HF_ENDPOINT to a mirror"
            ) from None
        if len(data) > max_bytes:
            raise DownloadError(
                f"{host} answers with more than {readable_bytes(max_bytes)}; check HF_ENDPOINT"
            )
        return data
    raise DownloadError(f"{host} has too much to do (status 429); try again later")


def _pause_s(error: urllib.error.HTTPError, url: str, page: str) -> float:
    """Return how long to wait before asking again. Raises DownloadError where that is no use."""
    if error.code != 429:
        raise DownloadError(refusal(url, error.code, error.headers, page)) from None
    seconds = _retry_after_s(error.headers.get("Retry-After", ""))
    if seconds > MAX_RETRY_AFTER_S:
        raise DownloadError(
            f"{url} may be fetched again in {seconds / 60:.0f} minutes (status 429); "
            "run the same command then"
        ) from None
    _log.warning("nearfar: the Hub has too much to do; going on in %.0f s", seconds)
    return seconds


def _retry_after_s(header: str) -> float:
    """Return the seconds that a Retry-After header names, as a number or as a date."""
    if header.strip().isdecimal():
        return float(header.strip()[:9])
    with contextlib.suppress(ValueError, TypeError):
        when = parsedate_to_datetime(header)
        # A date without a zone, or of zone -0000, is in UTC; Python would take it for local time.
        when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
        return max(0.0, when.timestamp() - time.time())
    return 5.0


def fetch(
    wanted: DownloadTarget,
    to: Path,
    *,
    headers: Mapping[str, str] | None = None,
    progress: Progress = lambda done, total: None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Bring the file to its place, going on from what an earlier try left. Raises DownloadError."""
    partial = to.with_name(f".{to.name}.partial")
    with _writing(to):
        to.parent.mkdir(parents=True, exist_ok=True)
    _check_disk(to.parent, wanted.size_bytes - _size(partial))
    was_begun = partial.exists()
    _fill(wanted, partial, headers or {}, progress, wait)
    if not is_right(wanted, partial):
        partial.unlink()
        if not was_begun:
            raise DownloadError(
                f"{wanted.url} is not what its checksum promises; try again, or another mirror"
            )
        # What an earlier try left may have been of another version.
        fetch(wanted, to, headers=headers, progress=progress, wait=wait)
        return
    partial.replace(to)


def _fill(
    wanted: DownloadTarget,
    partial: Path,
    headers: Mapping[str, str],
    progress: Progress,
    wait: Callable[[float], None],
) -> None:
    failures = 0
    while _size(partial) < wanted.size_bytes or not partial.exists():
        before = _size(partial)
        try:
            _go_on(wanted, partial, headers, progress)
            reason = "it ends too early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                wait(_pause_s(error, wanted.url, wanted.page))
            reason = f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            reason = cause(error)
        failures = 0 if _size(partial) > before else failures + 1
        if failures == TRIES:
            raise DownloadError(
                f"{wanted.url} broke off at {before:,} bytes ({reason}); "
                "run the same command again to go on from there"
            )
        if failures:
            wait(min(8.0, 0.5 * 2**failures))


def _go_on(
    wanted: DownloadTarget, partial: Path, headers: Mapping[str, str], progress: Progress
) -> None:
    have = _size(partial)
    ranged = {**headers, "Range": f"bytes={have}-"} if have else dict(headers)
    with contextlib.closing(open_url(wanted.url, ranged)) as answer:
        # A server that ignores the range sends the whole anew.
        whole = answer.status == 200
        done = 0 if whole else have
        with _writing(partial):
            file = partial.open("wb" if whole else "ab")
        with file:
            # One byte more than promised is asked for, and no more are ever written.
            while piece := answer.read(min(PIECE, wanted.size_bytes - done + 1)):
                if done + len(piece) > wanted.size_bytes:
                    partial.unlink()
                    raise DownloadError(
                        f"{wanted.url} sends more than the {wanted.size_bytes:,} bytes that were "
                        "promised; try again, or another mirror"
                    )
                with _writing(partial):
                    file.write(piece)
                    file.flush()
                done += len(piece)
                progress(done, wanted.size_bytes)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell a disk that takes nothing from a server that sends nothing: no try would mend it."""
    try:
        yield
    except OSError as error:
        raise DownloadError(f"{path.parent} takes no file: {obstacle(path, error)}") from None


def refusal(url: str, status: int, headers: Message, page: str) -> str:
    """Return what a refused request means, in one line with its remedy.

    The Hub answers 401 to a wrong token and to a wrong name alike; X-Error-Code and
    X-Error-Message tell them apart, as huggingface_hub reads them (`hf_raise_for_status`).
    """
    code = headers.get("X-Error-Code") or ""
    if code == "GatedRepo":
        return f"{url} needs permission; accept its terms at {page} and set HF_TOKEN"
    if "Invalid credentials" in (headers.get("X-Error-Message") or ""):
        return (
            "the Hub does not know the token (expired, or mistyped); set HF_TOKEN to a new one, or "
            "unset it for what is public"
        )
    if code == "RepoNotFound":
        return f"there is no {page}, or none that you may see; check its name, or set HF_TOKEN"
    if code == "RevisionNotFound":
        return f"{page} has no such revision; leave it out, or see its branches there"
    if status in (404, 410) or code == "EntryNotFound":
        return f"there is no {url}; check its name"
    if status in (401, 403):
        return f"{url} needs permission; accept its terms at {page} and set HF_TOKEN"
    return f"{url} cannot be fetched (status {status}); try again later"


def is_right(wanted: DownloadTarget, path: Path) -> bool:
    """Whether a file is what is wanted, by its size and its checksum."""
    if not path.is_file() or path.stat().st_size != wanted.size_bytes:
        return False
    if wanted.sha256:
        return sha256_of(path) == wanted.sha256.lower()
    blob = hashlib.sha1(b"blob %d\0" % wanted.size_bytes)  # as git names a file
    return _digest(path, blob) == wanted.git_sha1


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    return _digest(path, hashlib.sha256())


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_disk(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free - RESERVE_BYTES
    if needed_bytes > free:
        raise DownloadError(
            f"{folder} lacks {readable_bytes(needed_bytes - free)} of disk for this; "
            "free some, or set NEARFAR_HOME to another disk"
        )
