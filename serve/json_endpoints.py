"""JSON endpoints: embeddings, /tokenize and /detokenize, one JSON body in and one out."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from offload.engine import ByModel, Embedding, Engine, Tokenizing, held_in_memory
from offload.messages import Request
from offload.prompt_length import require_short, require_short_text
from serve.admission import Admission
from serve.auth import tenant_of
from serve.chat_turns import read_turn, refuse_unless
from serve.http_bodies import error_response, json_response, read_body, while_present
from serve.http_errors import BadRequest
from serve.model_names import engine_of
from serve.options import ServeOptions
from serve.request_schema import DetokenizeBody, EmbeddingBody, N, TokenizeBody, decode
from serve.response_bodies import DetokenizeReply, EmbeddingList, EmbeddingReply, TokenizeReply
from serve.tools import describe


@dataclass(frozen=True, kw_only=True)
class JsonEndpoint(Generic[N]):
    """JSON endpoint, an ASGI app; every error becomes an error body."""

    engine: Engine
    models: ByModel | None
    options: ServeOptions
    admission: Admission
    kind: type[N]
    answer: Callable[[N, Engine], Awaitable[msgspec.Struct]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            tenant = tenant_of(scope)
            self.admission.check(tenant)
            body = decode(await read_body(HttpRequest(scope, receive), self.options), self.kind)
            work = self._answer(body, tenant, scope, receive, send)
            await while_present(receive, work, timeout_s=self.options.request_timeout_s)
        except ClientDisconnect:
            return
        except Exception as error:
            await error_response(error)(scope, receive, send)

    async def _answer(
        self, body: N, tenant: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with self.admission.place(tenant):
            engine = self.engine
            if body.model is not None:
                engine, _ = engine_of(body.model, engine, self.models)
            async with held_in_memory(engine):
                reply = await self.answer(body, engine)
        await json_response(msgspec.json.encode(reply))(scope, receive, send)


async def embed(body: EmbeddingBody, engine: Engine) -> EmbeddingList:
    """Return the vectors. Raises BadRequest, and RequestError where a text cannot be placed."""
    refuse_unless(body.dimensions is None, "dimensions", "leave it out")
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(text.strip() for text in texts):
        raise BadRequest("input holds an empty text; write one", param="input")
    if not isinstance(engine, Embedding):
        raise BadRequest("this model makes no embeddings; serve one that does", param="model")
    vectors = await engine.embed(texts)
    as_text = body.encoding_format == "base64"
    rows = [
        EmbeddingReply(_packed(vector) if as_text else vector, index)
        for index, vector in enumerate(vectors)
    ]
    return EmbeddingList(rows, body.model)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def tokenize(body: TokenizeBody, engine: Engine) -> TokenizeReply:
    """Return the tokens of a prompt or a conversation. Raises BadRequest and RequestError."""
    known = _tokenizing(engine)
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest(
            "prompt and messages exclude each other, and one is needed; give one of them",
            param="prompt",
        )
    refuse_unless(body.add_generation_prompt is not False, "add_generation_prompt", "leave it out")
    max_model_len = engine.card().max_model_len
    if body.prompt is not None:
        require_short_text(body.prompt, max_model_len)
        tokens = await asyncio.to_thread(
            known.tokenize, body.prompt, add_special=body.add_special_tokens is not False
        )
    else:
        refuse_unless(body.add_special_tokens is None, "add_special_tokens", "leave it out")
        request = _request(body)
        require_short(request, max_model_len)
        tokens = await asyncio.to_thread(known.prompt_tokens, request)
    texts = await asyncio.to_thread(_each, known, tokens) if body.return_token_strs else None
    return TokenizeReply(
        count=len(tokens), max_model_len=max_model_len, tokens=tokens, token_strs=texts
    )


def _each(known: Tokenizing, tokens: Sequence[int]) -> list[str]:
    return [known.written([token]) for token in tokens]


async def detokenize(body: DetokenizeBody, engine: Engine) -> DetokenizeReply:
    """Return the text of tokens, control tokens as they are written. Raises BadRequest."""
    known, size = _tokenizing(engine), engine.card().vocab_size
    for at, token in enumerate(body.tokens):
        if size and token >= size:
            where = f"tokens[{at}]"
            message = f"{where} is {token}; this model's token ids are 0 to {size - 1}"
            raise BadRequest(message, param=where)
    return DetokenizeReply(await asyncio.to_thread(known.written, body.tokens))


def _tokenizing(engine: Engine) -> Tokenizing:
    if not isinstance(engine, Tokenizing):
        raise BadRequest("this engine cannot tokenize text; ask the server that has the model")
    return engine


def _request(body: TokenizeBody) -> Request:
    turns = [read_turn(turn, f"messages[{at}]") for at, turn in enumerate(body.messages or ())]
    return Request(messages=tuple(turns), tools=describe(body.tools or ()))
