"""Bodies of files and batches, in OpenAI's form."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from serve.request_schema import Ignored, RequestBody

BATCH_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
MAX_LINES = 50_000

Status = Literal[
    "validating",
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED = ("completed", "failed", "expired", "cancelled")
_Word = Annotated[str, Meta(max_length=64)]
_Text = Annotated[str, Meta(max_length=512)]
Metadata = Annotated[dict[_Word, _Text], Meta(max_length=16)]


class FileReply(msgspec.Struct, kw_only=True):
    """A file: what a client uploaded, or what a batch wrote."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"


class FileList(msgspec.Struct, kw_only=True):
    """Files of one key, the newest first."""

    data: list[FileReply]
    object: str = "list"
    has_more: bool = False


class DeletedReply(msgspec.Struct, kw_only=True):
    """What became of a file that was deleted."""

    id: str
    object: str = "file"
    deleted: bool = True


class BatchBody(RequestBody, kw_only=True, frozen=True):
    """The body of POST /v1/batches."""

    input_file_id: Annotated[str, Meta(max_length=100)]
    endpoint: Annotated[str, Meta(max_length=100)]
    completion_window: Literal["24h"] = "24h"
    metadata: Metadata | None = None
    output_expires_after: Ignored = None


class BatchLine(RequestBody, kw_only=True, frozen=True):
    """One line of a batch's input file: a request, whose body is read when its turn comes."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    url: str
    body: msgspec.Raw
    method: Literal["POST"] = "POST"


class BatchError(msgspec.Struct, kw_only=True):
    """What is wrong with an input file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, kw_only=True):
    """All that is wrong with an input file, or the beginning of it."""

    data: list[BatchError]
    object: str = "list"


class RequestCounts(msgspec.Struct, kw_only=True):
    """How many requests a batch has, and how many were answered or failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchReply(msgspec.Struct, kw_only=True):
    """A batch, as it stands; times are in seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    object: str = "batch"
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None


class BatchList(msgspec.Struct, kw_only=True):
    """Batches of one key, the newest first."""

    data: list[BatchReply]
    object: str = "list"
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class LineReply(msgspec.Struct, kw_only=True):
    """What became of one request: its HTTP status and body."""

    status_code: int
    request_id: str
    body: msgspec.Raw


class LineResult(msgspec.Struct, kw_only=True):
    """One line of a batch's output or error file."""

    id: str
    custom_id: str
    response: LineReply | None = None
    error: BatchError | None = None
