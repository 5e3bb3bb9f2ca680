"""Routes of files and batches, as OpenAI's clients ask them."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from backbone.errors import NearfarError
from serve.auth import tenant_of
from serve.batch.bodies import (
    ENDED,
    BatchBody,
    BatchList,
    BatchReply,
    DeletedReply,
    FileList,
    FileReply,
)
from serve.batch.runner import BatchRunner
from serve.batch.store import BatchStore
from serve.batch.upload import read_upload
from serve.http_bodies import error_response, json_response, read_body
from serve.http_errors import BadRequest
from serve.openapi import Described, DescribedRoute
from serve.options import ServeOptions
from serve.request_schema import decode

MAX_FILES = 1000  # of one key
MAX_TOTAL_BYTES = 1024**3  # of one key's files
_WINDOW_S = 24 * 3600
_MOST_LISTED = 100

_FILE, _BATCH = "/v1/files/{file}", "/v1/batches/{batch}"
# In the order of BatchRoutes.routes.
PATHS = (
    Described(
        method="POST",
        path="/v1/files",
        summary="Keep a file of requests.",
        reply=FileReply,
        form=("file", "purpose"),
    ),
    Described(method="GET", path="/v1/files", summary="List your files.", reply=FileList),
    Described(method="GET", path=_FILE, summary="Show a file.", reply=FileReply),
    Described(method="GET", path=f"{_FILE}/content", summary="Send what is in a file."),
    Described(method="DELETE", path=_FILE, summary="Erase a file.", reply=DeletedReply),
    Described(
        method="POST",
        path="/v1/batches",
        summary="Have a file of requests answered in the time that readers leave.",
        body=BatchBody,
        reply=BatchReply,
    ),
    Described(method="GET", path="/v1/batches", summary="List your batches.", reply=BatchList),
    Described(method="GET", path=_BATCH, summary="Show how far a batch is.", reply=BatchReply),
    Described(
        method="POST", path=f"{_BATCH}/cancel", summary="Call a batch off.", reply=BatchReply
    ),
)

Answer = Callable[[HttpRequest], Awaitable[Response]]


class BatchRoutes:
    """Batch routes over a store; `runner` is told of what is new."""

    def __init__(self, store: BatchStore, runner: BatchRunner, options: ServeOptions) -> None:
        self.store, self.runner, self._options = store, runner, options

    def routes(self) -> list[Route]:
        """Return the routes under /v1/files and /v1/batches."""
        answers: list[Answer] = [
            *(self._upload, self._files, self._file, self._content, self._delete),
            *(self._create, self._batches, self._batch, self._cancel),
        ]
        rows = zip(PATHS, answers, strict=True)
        return [DescribedRoute(described, _told(answer)) for described, answer in rows]

    async def _upload(self, request: HttpRequest) -> Response:
        tenant = tenant_of(request.scope)
        held = self.store.files(tenant)
        size = sum(each.bytes for each in held)
        if len(held) >= MAX_FILES or size >= MAX_TOTAL_BYTES:
            told = f"this key has {len(held)} files of {size / 1e6:.0f} MB here; delete some"
            raise BadRequest(told, status=413)
        file_id, path = self.store.new_file_path()
        filename = await read_upload(request, path, self._options)
        return _json(self.store.add_file(tenant, file_id, filename=filename, purpose="batch"))

    async def _files(self, request: HttpRequest) -> Response:
        held = self.store.files(tenant_of(request.scope))
        purpose = request.query_params.get("purpose")
        found = [each for each in held if purpose in (None, each.purpose)]
        listed, has_more = _page(found, request)
        return _json(FileList(data=listed, has_more=has_more))

    async def _file(self, request: HttpRequest) -> Response:
        return _json(self._known_file(request))

    async def _content(self, request: HttpRequest) -> Response:
        path = self.store.path_of(self._known_file(request).id)
        return FileResponse(path, media_type="application/jsonl")

    async def _delete(self, request: HttpRequest) -> Response:
        file_id, tenant = self._known_file(request).id, tenant_of(request.scope)
        for batch in self.store.batches(tenant):
            if batch.input_file_id == file_id and batch.status not in ENDED:
                raise BadRequest(f"{batch.id} reads this file; cancel it first", status=409)
        self.store.delete_file(tenant, file_id)
        return _json(DeletedReply(id=file_id))

    async def _create(self, request: HttpRequest) -> Response:
        body = decode(await read_body(request, self._options), BatchBody)
        tenant = tenant_of(request.scope)
        if self.store.file(tenant, body.input_file_id) is None:
            raise _unknown("input_file_id", "POST /v1/files")
        now = self.store.now()
        batch = BatchReply(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            status="validating",
            created_at=now,
            expires_at=now + _WINDOW_S,
            metadata=body.metadata,
        )
        self.store.add_batch(tenant, batch)
        self.runner.note_change()
        return _json(batch)

    async def _batches(self, request: HttpRequest) -> Response:
        listed, has_more = _page(self.store.batches(tenant_of(request.scope)), request)
        ends = {"first_id": listed[0].id, "last_id": listed[-1].id} if listed else {}
        return _json(BatchList(data=listed, has_more=has_more, **ends))

    async def _batch(self, request: HttpRequest) -> Response:
        return _json(self._known_batch(request))

    async def _cancel(self, request: HttpRequest) -> Response:
        now = self.store.now()

        def cancel(batch: BatchReply) -> None:
            if batch.status in ("validating", "in_progress"):
                batch.status, batch.cancelling_at = "cancelling", now

        self.store.change_batch(self._known_batch(request).id, cancel)
        self.runner.note_change()
        return _json(self._known_batch(request))

    def _known_file(self, request: HttpRequest) -> FileReply:
        found = self.store.file(tenant_of(request.scope), request.path_params["file"])
        if found is None:
            raise _unknown("file", "GET /v1/files", status=404)
        return found

    def _known_batch(self, request: HttpRequest) -> BatchReply:
        found = self.store.batch(tenant_of(request.scope), request.path_params["batch"])
        if found is None:
            raise _unknown("batch", "GET /v1/batches", status=404)
        return found


def _told(answer: Answer) -> Answer:
    """Return a route's answer whose errors are bodies in OpenAI's form."""

    async def answered(request: HttpRequest) -> Response:
        try:
            return await answer(request)
        except NearfarError as error:
            return error_response(error)

    return answered


def _page(found: list[Any], request: HttpRequest) -> tuple[list[Any], bool]:
    """Return what a list shows of `found` by its `limit` and `after`, and whether there is more."""
    limit, after = request.query_params.get("limit", "20"), request.query_params.get("after")
    if not limit.isdecimal() or not 1 <= int(limit[:6]) <= _MOST_LISTED:
        raise BadRequest(f"limit is {limit!r}; write 1 to {_MOST_LISTED}", param="limit")
    ids = [each.id for each in found]
    begin = ids.index(after) + 1 if after in ids else 0
    return found[begin : begin + int(limit)], len(found) > begin + int(limit)


def _unknown(what: str, remedy: str, *, status: int = 400) -> BadRequest:
    told = f"this key has no {what.removesuffix('_id')} of that id; see {remedy}"
    return BadRequest(told, param=what, status=status)


def _json(body: msgspec.Struct) -> Response:
    return json_response(msgspec.json.encode(body))
