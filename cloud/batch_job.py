"""A batch job: a file of requests is sent to an endpoint, waited for, and its answers fetched.

The endpoint runs it (serve/batch): who starts the same file again goes on waiting for the same job,
and an endpoint that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from backbone.errors import MissingExtra, cause
from backbone.files import atomic_write
from offload.errors import CloudFailed, CloudUnreachable, SettingsError

if TYPE_CHECKING:
    import httpx

_POLL_S = 1.0
_GONE = ("failed", "expired", "cancelled")
_MARK = "nearfar_sha256"  # in a batch's metadata: of the file that it was made from


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Where a batch job runs, and where its answers go."""

    base_url: Annotated[
        str, typer.Option(help="The endpoint, as `cloud serve --http` prints it.")
    ] = "http://127.0.0.1:8000/v1"
    output: Annotated[
        Path | None, typer.Option(help="The answers; FILE with .output.jsonl unless set.")
    ] = None
    api_key: str = field(default="", repr=False)


class _Counts(msgspec.Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Fault(msgspec.Struct):
    message: str = ""
    line: int | None = None


class _Faults(msgspec.Struct):
    data: list[_Fault] = []


class BatchState(msgspec.Struct):
    """A batch, as the endpoint tells it."""

    id: str
    status: str
    request_counts: _Counts = msgspec.field(default_factory=_Counts)
    metadata: dict[str, str] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Faults | None = None


class _Listed(msgspec.Struct):
    data: list[BatchState]
    has_more: bool = False


class _File(msgspec.Struct):
    id: str


class _Line(msgspec.Struct):
    url: str


@dataclass(frozen=True, kw_only=True)
class BatchOutcome:
    """Where the answers lie, and how many requests were answered and failed."""

    output: Path
    answered: int
    failed: int


def run_batch(
    file: Path,
    options: BatchOptions,
    *,
    tell: Callable[[str], None] = lambda line: None,
    transport: httpx.BaseTransport | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> BatchOutcome:
    """Send a file, wait for its batch, and write the answers; a file sent before is not sent again.

    `tell` gets a line whenever something has changed. Raises SettingsError, CloudUnreachable where
    the endpoint is not there at the start, and CloudFailed where the batch failed.
    """
    content = _content(file)
    with _client(options, transport) as client:
        batch = _known(client, content) or _new(client, file, content)
        told = ""
        while batch.status not in ("completed", *_GONE):
            counts = batch.request_counts
            line = f"{batch.id}: {batch.status}, {counts.completed} of {counts.total} answered"
            if line != told:
                tell(told := line)
            pause(_POLL_S)
            batch = _again(client, batch)
        return _fetched(client, batch, file, options)


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        msgspec.json.decode(content.split(b"\n", 1)[0], type=_Line)
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read ({cause(error)}); name a file of requests"
        ) from None
    except msgspec.MsgspecError:
        raise SettingsError(
            f"{file} is no batch file; write one request on each line, as "
            '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}'
        ) from None
    return content


@contextmanager
def _client(options: BatchOptions, transport: httpx.BaseTransport | None) -> Iterator[httpx.Client]:
    try:
        import httpx
    except ModuleNotFoundError:
        raise MissingExtra("httpx", "upstream") from None
    headers = {"authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    base_url = options.base_url.rstrip("/")
    with httpx.Client(
        base_url=base_url, headers=headers, transport=transport, timeout=600, trust_env=False
    ) as client:
        yield client


def _asked(client: httpx.Client, method: str, path: str, **sent: Any) -> bytes:
    """Return a reply's body. Raises CloudUnreachable, CloudFailed."""
    import httpx

    try:
        reply = client.request(method, path, **sent)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CloudUnreachable(
            f"nothing answers at {client.base_url} ({cause(error)}); "
            "start it with `nearfar cloud serve --http 127.0.0.1:8000`"
        ) from None
    if reply.status_code == 404 and path in ("/files", "/batches"):
        raise CloudFailed(f"{client.base_url} takes no batches; ask one that has /v1/batches")
    if reply.status_code != 200:
        told = f"{client.base_url} refused {path} (HTTP {reply.status_code}): {_why(reply)}"
        raise CloudFailed(told)
    return reply.content


def _why(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "it does not say why"


def _known(client: httpx.Client, content: bytes) -> BatchState | None:
    """Return the batch that was made from the same content before, if it did not fail."""
    mark, query = hashlib.sha256(content).hexdigest(), {"limit": "100"}
    while True:
        body = _asked(client, "GET", "/batches", params=query)
        listed = msgspec.json.decode(body, type=_Listed)
        for batch in listed.data:
            if (batch.metadata or {}).get(_MARK) == mark and batch.status not in _GONE:
                return batch
        if not listed.has_more or not listed.data:
            return None
        query = {"limit": "100", "after": listed.data[-1].id}


def _new(client: httpx.Client, file: Path, content: bytes) -> BatchState:
    form = {"files": {"file": (file.name, content)}, "data": {"purpose": "batch"}}
    sent = msgspec.json.decode(_asked(client, "POST", "/files", **form), type=_File)
    first = msgspec.json.decode(content.split(b"\n", 1)[0], type=_Line)
    wish = {
        "input_file_id": sent.id,
        "endpoint": first.url,
        "completion_window": "24h",
        "metadata": {_MARK: hashlib.sha256(content).hexdigest()},
    }
    return msgspec.json.decode(_asked(client, "POST", "/batches", json=wish), type=BatchState)


def _again(client: httpx.Client, batch: BatchState) -> BatchState:
    """Return the batch as it stands; an endpoint that is gone is waited for."""
    try:
        body = _asked(client, "GET", f"/batches/{batch.id}")
    except CloudUnreachable:
        return batch
    return msgspec.json.decode(body, type=BatchState)


def _fetched(
    client: httpx.Client, batch: BatchState, file: Path, options: BatchOptions
) -> BatchOutcome:
    output = options.output or file.with_suffix(".output.jsonl")
    if batch.output_file_id:
        atomic_write(output, _asked(client, "GET", f"/files/{batch.output_file_id}/content"))
    if batch.error_file_id:
        errors = _asked(client, "GET", f"/files/{batch.error_file_id}/content")
        atomic_write(output.with_suffix(".errors.jsonl"), errors)
    if batch.status in _GONE:
        first = batch.errors.data[0] if batch.errors and batch.errors.data else None
        line = f"line {first.line}: " if first and first.line else ""
        why = f" ({line}{first.message})" if first else ""
        raise CloudFailed(f"{batch.id} is {batch.status}{why}; mend the file, or send it again")
    counts = batch.request_counts
    return BatchOutcome(output=output, answered=counts.completed, failed=counts.failed)
