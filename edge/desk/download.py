"""One file over HTTP: resumed where it broke, checked when it is whole, never half in its place."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from backbone.causes import cause
from backbone.errors import NearfarError
from backbone.sizes import readable
from offload.obstacles import obstacle

PIECE = 1 << 20
TRIES = 6  # in a row without a byte
RESERVE_BYTES = 200_000_000  # of the disk, that a download must leave free
TIMEOUT_S = 30.0

Progress = Callable[[int, int], None]


class DownloadError(NearfarError):
    """A download that cannot be made, or that was not what was promised."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file to fetch; `sha256`, or git's `sha1` of a small file, is what it must be."""

    url: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None


class _StayHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and takes no token to another host."""

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
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            found.remove_header("Authorization")
        return found


def open_url(url: str, headers: Mapping[str, str]) -> Any:
    """Return the open answer. Raises urllib's errors; DownloadError for other than HTTP."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not a web address; it must begin with https://")
    opener = urllib.request.build_opener(_StayHome)
    return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S)


def fetch(
    wanted: Wanted,
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
    if not _is_right(wanted, partial):
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
    wanted: Wanted,
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
                raise DownloadError(refusal(wanted.url, error.code)) from None
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


def _go_on(wanted: Wanted, partial: Path, headers: Mapping[str, str], progress: Progress) -> None:
    have = _size(partial)
    ranged = {**headers, "Range": f"bytes={have}-"} if have else dict(headers)
    with contextlib.closing(open_url(wanted.url, ranged)) as answer:
        # A server that ignores the range sends the whole anew.
        whole = answer.status == 200
        done = 0 if whole else have
        with _writing(partial):
            file = partial.open("wb" if whole else "ab")
        with file:
            while piece := answer.read(PIECE):
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


def refusal(url: str, status: int) -> str:
    """Return what a refused request means, in one line with its remedy."""
    if status in (401, 403):
        page = "/".join(url.split("/")[:5])
        return f"{url} needs permission; accept its terms at {page} and set HF_TOKEN"
    if status == 404:
        return f"there is no {url}; check its name"
    return f"{url} cannot be fetched (status {status}); try again later"


def _is_right(wanted: Wanted, path: Path) -> bool:
    if path.stat().st_size != wanted.size_bytes:
        return False
    if wanted.sha256:
        return sha256_of(path) == wanted.sha256
    if wanted.git_sha1:
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == wanted.git_sha1
    return True


def sha256_of(path: Path) -> str:
    """Return the checksum of a file."""
    digest = hashlib.sha256()
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
            f"{folder} lacks {readable(needed_bytes - free)} of disk for this; "
            "free some, or set NEARFAR_HOME to another disk"
        )
