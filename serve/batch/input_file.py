"""Input files of batches: one request a line, checked before the first of them is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from serve.batch.bodies import BATCH_PATHS, MAX_LINES, BatchError, BatchLine

_MOST_ERRORS = 50  # that are told


def read_lines(path: Path) -> Iterator[tuple[int, BatchLine]]:
    """Yield the requests of a checked file and the numbers of their lines, from 1."""
    for number, raw in _numbered(path):
        yield number, msgspec.json.decode(raw, type=BatchLine)


def check_file(path: Path, endpoint: str) -> tuple[int, list[BatchError]]:
    """Return how many requests a file holds, and what is wrong with it."""
    if endpoint not in BATCH_PATHS:
        told = f"there are no batches for {endpoint!r}; known are {', '.join(BATCH_PATHS)}"
        return 0, [BatchError(code="invalid_endpoint", message=told, param="endpoint")]
    errors: list[BatchError] = []
    seen: set[str] = set()
    count = 0
    for number, raw in _numbered(path):
        count += 1
        if count > MAX_LINES:
            told = f"the file has more than {MAX_LINES} requests; make two of it"
            return count, [BatchError(code="too_many_requests", message=told, line=number)]
        if (error := _fault(raw, endpoint, seen)) is not None:
            error.line = number
            errors.append(error)
            if len(errors) == _MOST_ERRORS:
                break
    if not count:
        told = "the file holds no request; write one JSON object on each line"
        errors.append(BatchError(code="empty_file", message=told))
    return count, errors


def _fault(raw: bytes, endpoint: str, seen: set[str]) -> BatchError | None:
    try:
        line = msgspec.json.decode(raw, type=BatchLine)
        body = msgspec.json.decode(line.body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = str(error) if isinstance(error, msgspec.ValidationError) else "it is not JSON"
        told = f"the line is no request: {fault}; see POST /v1/batches in docs/serve.md"
        return BatchError(code="invalid_json_line", message=told)
    if line.url != endpoint:
        told = f"url is not the batch's own endpoint, {endpoint}; all lines of a batch have one"
        return BatchError(code="mismatched_url", message=told, param="url")
    if line.custom_id in seen:
        told = "this custom_id stands on an earlier line; give each line its own"
        return BatchError(code="duplicate_custom_id", message=told, param="custom_id")
    seen.add(line.custom_id)
    if bytes(body.get("stream", b"false")) == b"true":
        told = "a batch cannot be streamed; leave stream out"
        return BatchError(code="stream_in_batch", message=told, param="body.stream")
    return None


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if raw.strip():
                yield number, raw
