"""OpenAPI document: the paths of the server and the form of every body."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.http_errors import ErrorBody
from serve.request_schema import (
    ChatBody,
    Common,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)
from serve.response_bodies import (
    ChatReply,
    DetokenizeReply,
    EmbeddingList,
    ModelList,
    ModelReply,
    TextReply,
    TokenizeReply,
)
from serve.responses_body import ResponsesBody

_POSTS: dict[str, tuple[str, type, type | None]] = {
    "/v1/chat/completions": ("Answer a conversation.", ChatBody, ChatReply),
    "/v1/responses": ("Answer a conversation, in the newer form.", ResponsesBody, None),
    "/v1/completions": ("Continue a text.", CompletionBody, TextReply),
    "/v1/embeddings": ("Place texts in a vector space.", EmbeddingBody, EmbeddingList),
    "/tokenize": ("Tell the tokens of a prompt.", TokenizeBody, TokenizeReply),
    "/detokenize": ("Tell the text of tokens.", DetokenizeBody, DetokenizeReply),
}
_GETS: dict[str, tuple[str, type | None]] = {
    "/v1/models": ("List the names this endpoint answers to.", ModelList),
    "/v1/models/{model}": ("Show one of them.", ModelReply),
    "/health": ("Whether the server runs.", None),
    "/ready": ("Whether the engine has warmed up.", None),
    "/metrics": ("The numbers, for Prometheus.", None),
    "/openapi.json": ("This document.", None),
}
_REF = "#/components/schemas/{name}"
_NAMED = re.compile(r"{(\w+)}")


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a path does by one method: its body and its reply, None where they are no JSON.

    `form` are the fields of a body that is a form.
    """

    method: str
    path: str
    summary: str
    body: type | None = None
    reply: type | None = None
    form: tuple[str, ...] = ()


class DescribedRoute(Route):
    """A route that the document tells of, beside those that every server has."""

    def __init__(
        self, described: Described, answer: Callable[[Request], Awaitable[Response]]
    ) -> None:
        super().__init__(described.path, answer, methods=[described.method])
        self.described = described


def document(version: str, further: Sequence[Described] = ()) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of this release, with further paths that this server has."""
    bodies = [kind for _, *both in _POSTS.values() for kind in both if kind is not None]
    bodies += [kind for row in further for kind in (row.body, row.reply) if kind is not None]
    kinds = [*dict.fromkeys(bodies), ModelList, ModelReply, ErrorBody]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    paths: dict[str, Any] = {path: {"post": _post(*row)} for path, row in _POSTS.items()}
    paths |= {path: {"get": _get(path, *row)} for path, row in _GETS.items()}
    for row in further:
        paths.setdefault(row.path, {})[row.method.lower()] = _described(row)
    return {
        "openapi": "3.1.0",
        "info": {"title": "nearfar", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(summary: str, body: type, reply: type | None) -> dict[str, Any]:
    answers = _answers(reply)
    if issubclass(body, Common | ResponsesBody):
        answers["200"].setdefault("content", {})["text/event-stream"] = {
            "schema": {"type": "string"}
        }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _json(body)},
        "responses": answers,
    }


def _get(path: str, summary: str, reply: type | None) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": summary, "responses": _answers(reply)}
    if names := _NAMED.findall(path):
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    return made


def _described(row: Described) -> dict[str, Any]:
    made = _get(row.path, row.summary, row.reply)
    if row.body is not None:
        made["requestBody"] = {"required": True, "content": _json(row.body)}
    if row.form:
        form = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in row.form},
            "required": list(row.form),
        }
        made["requestBody"] = {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}},
        }
    return made


def _answers(reply: type | None) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done."}
    if reply is not None:
        good["content"] = _json(reply)
    return {"200": good, "default": {"description": "Not done.", "content": _json(ErrorBody)}}


def _json(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}}
