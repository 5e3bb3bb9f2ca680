"""HTTP bodies: read within bounds, answered as JSON or an error, left when a client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive

from serve.http_errors import BadRequest, body_of, describe, retry_after_s
from serve.options import ServeOptions


async def read_body(request: HttpRequest, options: ServeOptions) -> bytes:
    """Return the body. Raises BadRequest where it is not JSON by name, too large or too slow."""
    # A page of another site can post a form or plain text unasked, but not this type.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(
            "the body is not announced as JSON; send the header Content-Type: application/json",
            status=415,
        )
    try:
        return await asyncio.wait_for(_collect(request, options), options.body_timeout_s)
    except asyncio.TimeoutError:
        raise BadRequest(
            f"the body did not come within {options.body_timeout_s:g} s; send it faster", status=408
        ) from None


async def _collect(request: HttpRequest, options: ServeOptions) -> bytes:
    parts: list[bytes] = []
    size, max_bytes = 0, options.max_body_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise _too_large(max_bytes)
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(max_bytes: int) -> BadRequest:
    return BadRequest(f"the body has more than {max_bytes} bytes; shorten it", status=413)


def json_response(body: bytes, status: int = 200) -> Response:
    """Return a response of JSON that is already encoded."""
    return Response(body, status_code=status, media_type="application/json")


def error_response(error: Exception) -> Response:
    """Return the response that tells of an error."""
    status, problem = describe(error)
    response = json_response(body_of(problem), status)
    wait_s = retry_after_s(error)
    if wait_s is not None:
        response.headers["retry-after"] = str(wait_s)
    return response


async def while_present(
    receive: Receive, work: Coroutine[Any, Any, None], *, timeout_s: float
) -> bool:
    """Run `work` until it is done, the client is gone, or the time is up; whether it was done.

    The body must have been read. Left early, `work` is cancelled and waited for.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait(
            (working, leaving), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not working.done():
            return False
        working.result()  # raises what the work raised
        return True
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
