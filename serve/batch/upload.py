"""Uploads: a multipart form whose file goes to disk, within bounds."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive

from backbone.files import open_private
from serve.http_errors import BadRequest
from serve.options import ServeOptions

MAX_FILE_BYTES = 100 * 1024 * 1024
_FORM_BYTES = 64 * 1024  # for the rest of the form


async def read_upload(request: HttpRequest, path: Path, options: ServeOptions) -> str:
    """Write the form's file to `path`, and return its name. Raises BadRequest."""
    _refuse_pages(request, options)
    bounded = HttpRequest(request.scope, _bounded(request.receive))
    try:
        return await asyncio.wait_for(_read(bounded, path), options.request_timeout_s)
    except asyncio.TimeoutError:
        raise BadRequest("the file did not come in time; send it faster", status=408) from None


async def _read(request: HttpRequest, path: Path) -> str:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise BadRequest("a file is sent as multipart/form-data; add file and purpose", status=415)
    async with request.form(max_files=1, max_fields=8, max_part_size=_FORM_BYTES) as form:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise BadRequest("the form has no file; send one", param="file")
        if purpose != "batch":
            raise BadRequest("purpose must be batch; files serve nothing else", param="purpose")
        await asyncio.to_thread(_keep, file, path)
        return (file.filename or "input.jsonl")[:256]


def _keep(file: UploadFile, path: Path) -> None:
    descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(descriptor, "wb") as kept:
        shutil.copyfileobj(file.file, kept)


def _refuse_pages(request: HttpRequest, options: ServeOptions) -> None:
    """Refuse a form of a page that may not ask: a browser sends it without asking us first."""
    origin = request.headers.get("origin")
    if origin is not None and not {origin, "*"} & set(options.origins):
        raise BadRequest("this page may not send files; add it to serve.origins", status=403)


def _bounded(receive: Receive) -> Receive:
    """Return a `receive` that refuses a body with more bytes than a file may have."""
    size = 0

    async def received() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_FILE_BYTES + _FORM_BYTES:
            raise BadRequest(
                f"the file has more than {MAX_FILE_BYTES} bytes; make two of it", status=413
            )
        return message

    return received
