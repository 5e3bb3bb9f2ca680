"""POST /tokenize and /detokenize, in vLLM's form: what tokens a text is for the engine's model."""

from __future__ import annotations

import asyncio

from offload.engine import Engine, Tokenizing
from offload.messages import Request
from serve.chat_turns import read_turn, refuse_unless
from serve.http_errors import BadRequest
from serve.model_names import check_name
from serve.request_schema import DetokenizeBody, TokenizeBody
from serve.response_bodies import DetokenizeReply, TokenizeReply
from serve.tools import describe


async def tokenize(body: TokenizeBody, engine: Engine) -> TokenizeReply:
    """Return the tokens of a prompt or a conversation. Raises BadRequest and RequestError."""
    known = _tokenizing(engine, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest(
            "prompt and messages exclude each other, and one is needed; give one of them",
            param="prompt",
        )
    refuse_unless(body.add_generation_prompt is not False, "add_generation_prompt", "leave it out")
    if body.prompt is not None:
        tokens = await asyncio.to_thread(
            known.tokenize, body.prompt, add_special=body.add_special_tokens is not False
        )
    else:
        refuse_unless(body.add_special_tokens is None, "add_special_tokens", "leave it out")
        tokens = await asyncio.to_thread(known.prompt_tokens, _request(body))
    texts = [known.written([token]) for token in tokens] if body.return_token_strs else None
    return TokenizeReply(
        count=len(tokens),
        max_model_len=engine.card().max_model_len,
        tokens=tokens,
        token_strs=texts,
    )


async def detokenize(body: DetokenizeBody, engine: Engine) -> DetokenizeReply:
    """Return the text of tokens, control tokens as they are written. Raises BadRequest."""
    known, size = _tokenizing(engine, body.model), engine.card().vocab_size
    for at, token in enumerate(body.tokens):
        if size and token >= size:
            where = f"tokens[{at}]"
            told = f"{where} is {token}; this model's token ids are 0 to {size - 1}"
            raise BadRequest(told, param=where)
    return DetokenizeReply(await asyncio.to_thread(known.written, body.tokens))


def _tokenizing(engine: Engine, model: str | None) -> Tokenizing:
    if model is not None:
        check_name(model, engine)
    if not isinstance(engine, Tokenizing):
        raise BadRequest("this engine tells no tokens; ask the server that has the model")
    return engine


def _request(body: TokenizeBody) -> Request:
    turns = [read_turn(turn, f"messages[{at}]") for at, turn in enumerate(body.messages or ())]
    return Request(messages=tuple(turns), tools=describe(body.tools or ()))
