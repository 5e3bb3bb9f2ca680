"""Bodies of the page's API: JSON in, and JSON out with its sentences in the page's language."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from backbone.errors import NearfarError, cause
from edge.assistant.language import speaks_chinese, spoken, told_of
from offload.errors import RequestError

T = TypeVar("T")


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body as a struct. Raises RequestError for one that is none."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not what is asked for: {cause(error)}") from None


def as_json(body: object, *, status: int = 200) -> Response:
    """Return a body as it is."""
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")


def in_words(request: Request, body: object) -> Response:
    """Return a body with its sentences in the page's language."""
    document = msgspec.to_builtins(body)
    return as_json(spoken(document, in_chinese=wants_chinese(request)))


def told(request: Request, error: NearfarError | None) -> str:
    """Return what a person is told of an error, "" where there is none."""
    return told_of(error, in_chinese=wants_chinese(request)) if error is not None else ""


def wants_chinese(request: Request) -> bool:
    """Whether the page speaks Chinese."""
    return speaks_chinese(request.headers.get("accept-language", ""))


async def on_error(request: Request, error: Exception) -> Response:
    """Return the response that tells of one of our errors."""
    assert isinstance(error, NearfarError), "only ours come here"
    return as_json({"error": told(request, error)}, status=400)
