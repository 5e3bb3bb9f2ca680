"""Request parsing: a client's body as an engine's requests; what cannot be kept is refused."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from offload.engine import Engine
from offload.messages import Request, Sampling, sampling_at
from offload.tool_calls.toolbox import Toolbox
from serve.chat_turns import read_options, read_schema, read_turn, refuse_unless, split_begun
from serve.http_errors import BadRequest
from serve.model_names import check_name, model_of, privacy_of
from serve.options import ServeOptions
from serve.prompts import read_prompts
from serve.request_schema import ChatBody, Common, CompletionBody
from serve.tools import read_tools

_DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
_CHAT_REFUSED = ("functions", "function_call", "audio", "moderation", "web_search_options")


@dataclass(frozen=True, kw_only=True)
class ParsedRequest:
    """Parsed request: a Request for each choice, prompt by prompt."""

    model: str
    requests: tuple[Request, ...]
    per_prompt: int
    stream: bool
    include_usage: bool
    logprobs: bool
    echo: bool = False
    scores_only: bool = False  # the prompt is scored, and nothing is written behind it
    tools: Toolbox | None = None

    @property
    def num_alternatives(self) -> int:
        """How many likeliest tokens are to be told of every place."""
        return self.requests[0].sampling.logprobs


def read_chat(body: ChatBody, engine: Engine, options: ServeOptions) -> ParsedRequest:
    """Return what a chat asks for. Raises BadRequest or RequestError."""
    _check_chat(body)
    check_name(body.model, engine)
    tools = read_tools(body)
    schema = read_schema(body.response_format)
    if tools is not None and tools.schema is not None:
        schema = tools.schema
    sampling = _sampling(
        body,
        _chat_tokens(body, engine),
        logprobs=body.top_logprobs or 0,
        json_schema=schema,
        temperature=options.temperature,
    )
    turns = tuple(read_turn(turn, f"messages[{at}]") for at, turn in enumerate(body.messages))
    turns, begun = split_begun(body, turns)
    if not turns[-1].content.strip() and turns[-1].role != "tool":
        last = f"messages[{len(turns) - 1}].content"
        raise BadRequest(f"{last} is empty; write a question", param=last)
    request = Request(
        messages=turns,
        answer_prefix=begun,
        sampling=sampling,
        privacy=privacy_of(body.model, options.privacy),
        deadline_s=options.request_timeout_s,
        model=model_of(body.model, engine),
        tools=tools.descriptions if tools else (),
        template_options=read_options(body.chat_template_kwargs),
        cache_salt=_salt(body),
    )
    return _asked(body, [request], options, logprobs=bool(body.logprobs), tools=tools)


def read_completion(body: CompletionBody, engine: Engine, options: ServeOptions) -> ParsedRequest:
    """Return what a raw completion asks for. Raises BadRequest or RequestError."""
    _check_completion(body)
    check_name(body.model, engine)
    suffix = body.suffix or ""
    prompts = read_prompts(body.prompt, engine.card().vocab_size, may_be_empty=bool(suffix))
    # Only the engine can tell what token ids look like.
    of_ids = any(prompt.prompt is None for prompt in prompts)
    sampling = _sampling(
        body,
        # No engine writes nothing: where only the prompt is scored, what it writes is left out.
        _completion_tokens(body.max_tokens, engine),
        logprobs=body.logprobs or 0,
        temperature=0.0,  # a raw prompt is mostly a program's
        prompt_logprobs=bool(body.echo) and (body.logprobs is not None or of_ids),
    )
    _check_count(len(prompts) * (body.n or 1), options)
    requests = [
        Request(
            prompt=prompt.prompt,
            prompt_token_ids=prompt.token_ids,
            suffix=suffix,
            sampling=sampling,
            privacy=privacy_of(body.model, options.privacy),
            deadline_s=options.request_timeout_s,
            model=model_of(body.model, engine),
            cache_salt=_salt(body),
        )
        for prompt in prompts
    ]
    return _asked(
        body,
        requests,
        options,
        logprobs=body.logprobs is not None,
        echo=bool(body.echo),
        scores_only=body.max_tokens == 0,
    )


def _asked(
    body: Common,
    requests: Sequence[Request],
    options: ServeOptions,
    *,
    logprobs: bool,
    echo: bool = False,
    scores_only: bool = False,
    tools: Toolbox | None = None,
) -> ParsedRequest:
    count = body.n or 1
    _check_count(len(requests) * count, options)
    if body.stream_options is not None and not body.stream:
        raise BadRequest(
            "stream_options is for streams; set stream to true", param="stream_options"
        )
    return ParsedRequest(
        model=body.model,
        requests=tuple(_variant(each, i) for each in requests for i in range(count)),
        per_prompt=count,
        stream=bool(body.stream),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        logprobs=logprobs,
        echo=echo,
        scores_only=scores_only,
        tools=tools,
    )


def _salt(body: Common) -> str:
    """Return the name under which what was computed is shared; a fresh one shares nothing."""
    salt = body.cache_salt or ""
    return f"{salt}\n{uuid.uuid4().hex}" if body.cache_prompt is False else salt


def _variant(request: Request, number: int) -> Request:
    """Return a request of its own id for one of n choices; each draws from a seed of its own."""
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=sampling.seed + number)
    fresh = Request(prompt="-").id
    return msgspec.structs.replace(request, id=fresh, sampling=sampling)


def _check_count(count: int, options: ServeOptions) -> None:
    if count > options.max_choices:
        raise BadRequest(
            f"n: {count} choices are asked for and one request may have {options.max_choices}; "
            "ask for fewer",
            param="n",
        )


def _sampling(
    body: Common,
    max_tokens: int,
    *,
    logprobs: int,
    temperature: float | None,
    prompt_logprobs: bool = False,
    json_schema: dict[str, Any] | None = None,
) -> Sampling:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    given = {
        "top_p": body.top_p,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return sampling_at(
        temperature if body.temperature is None else body.temperature,
        max_tokens=max_tokens,
        stop=stop,
        seed=body.seed,
        top_k=max(0, body.top_k or 0),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        logit_bias=_biases(body.logit_bias),
        json_schema=json_schema,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        **chosen,
    )


def _biases(given: dict[str, float] | None) -> dict[int, float] | None:
    if not given:
        return None
    for token in given:
        if not (token.isascii() and token.isdigit() and int(token[:11]) < 2**31):
            raise BadRequest(
                f"logit_bias: {token[:20]!r} is no token id; name tokens by number",
                param="logit_bias",
            )
    return {int(token): bias for token, bias in given.items()}


def _check_chat(body: ChatBody) -> None:
    for name in _CHAT_REFUSED:
        refuse_unless(not getattr(body, name), name, "leave it out")
    refuse_unless(body.modalities in (None, ["text"]), "modalities", 'ask for ["text"]')
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs; set it to true", param="top_logprobs")


def _check_completion(body: CompletionBody) -> None:
    refuse_unless(body.best_of in (None, body.n or 1), "best_of", "leave it out")
    if body.max_tokens == 0 and not body.echo:
        raise BadRequest(
            "max_tokens is 0, which is for scoring a prompt; set echo to true, or ask for more",
            param="max_tokens",
        )


def _chat_tokens(body: ChatBody, engine: Engine) -> int:
    new, old = body.max_completion_tokens, body.max_tokens
    if new is not None and old is not None and new != old:
        raise BadRequest(
            "max_tokens and max_completion_tokens differ; give the second alone", param="max_tokens"
        )
    # OpenAI's default: as long as the context allows.
    chosen = new if new is not None else old
    if chosen == 0:
        name = "max_tokens" if new is None else "max_completion_tokens"
        raise BadRequest(f"{name} is 0; ask for 1 or more, or -1 for no limit", param=name)
    return _as_many_as_fit(engine) if chosen in (None, -1) else int(chosen or 0)


def _completion_tokens(wanted: int | None, engine: Engine) -> int:
    if wanted == -1:
        return _as_many_as_fit(engine)
    return _DEFAULT_COMPLETION_TOKENS if wanted is None else max(1, wanted)


def _as_many_as_fit(engine: Engine) -> int:
    return min(max(1, engine.card().max_model_len), 1_000_000)
