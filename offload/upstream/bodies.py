"""Bodies for OpenAI-compatible servers: from a Request to JSON, and from chunks to Deltas."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offload.errors import CloudFailed
from offload.messages import (
    MAX_HOPS,
    MAX_TOOL_CALLS,
    Confidence,
    Delta,
    Finish,
    FinishReason,
    Hop,
    Message,
    Picture,
    Request,
    Route,
    Sampling,
    Side,
    Usage,
)
from offload.upstream.dialect import Dialect, extra_words


class _Architecture(msgspec.Struct):
    input_modalities: list[str] | None = None  # as OpenRouter tells them


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None
    architecture: _Architecture | None = None


class _Capable(msgspec.Struct):
    capabilities: list[str] | None = None


class ModelList(msgspec.Struct):
    """What GET /models says; a server may say more. `models` is llama.cpp's server's."""

    data: list[_Model]
    models: list[_Capable] | None = None

    def sees(self, at: int) -> bool:
        """Whether the server says that the model at this place sees pictures."""
        told = self.models[at].capabilities if self.models and at < len(self.models) else None
        form = self.data[at].architecture
        return "multimodal" in (told or ()) or "image" in (
            (form.input_modalities if form else None) or ()
        )


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None  # thoughts, as DeepSeek and vLLM tell them
    reasoning: str | None = None  # the same, as others do
    tool_calls: list[_Call] | None = None


class _Likely(msgspec.Struct):
    logprob: float


class _Token(msgspec.Struct):
    logprob: float
    top_logprobs: list[_Likely] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    delta: _Said | None = None  # of a chat
    logprobs: _Logprobs | None = None
    text: str | None = None  # of a raw completion
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    route: msgspec.Raw = msgspec.Raw(b"null")  # of another nearfar


class Chunk(msgspec.Struct):
    """Chunk: one event of a stream; `error` is how some servers say that it broke."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


def body_of(request: Request, model: str, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON body; which path it goes to depends on whether it has messages."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        dialect.max_tokens: sampling.max_tokens,
        **_drawn(sampling),
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra_words(request, dialect),
    }
    if request.messages:
        body |= _chat_of(request, dialect)
    elif request.prompt_token_ids:
        body["prompt"] = list(request.prompt_token_ids)
    else:
        body["prompt"] = (request.prompt or "") + request.answer_prefix
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            body[name] = getattr(sampling, name)
    if sampling.json_schema is not None:
        named = {"name": "answer", "schema": sampling.json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def _drawn(sampling: Sampling) -> dict[str, float]:
    """Return how tokens are to be drawn; of a model's own way its server knows."""
    said = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if not sampling.draws_own:
        return said
    return {"top_p": sampling.top_p} if sampling.top_p != 1.0 else {}


def _chat_of(request: Request, dialect: Dialect) -> dict[str, Any]:
    tells = "reasoning_content" in dialect.words
    body: dict[str, Any] = {"messages": [_turn(each, tells) for each in request.messages]}
    if request.tools:
        body["tools"] = list(request.tools)
    if request.answer_prefix:
        body["messages"].append({"role": "assistant", "content": request.answer_prefix})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def _turn(message: Message, tells_reasoning: bool) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning and tells_reasoning:
        turn["reasoning_content"] = message.reasoning
    return turn


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return what was said; with pictures, as parts of which the text is the last."""
    if not message.pictures:
        return message.content
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(each)}} for each in message.pictures
    ]
    return [*parts, {"type": "text", "text": message.content}] if message.content else parts


def _data_url(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


_MOST_TOKENS = 1_000_000_000  # that one answer is believed to have taken
_MOST_NAMED = 4 * MAX_TOOL_CALLS  # pieces that tell a name; at each a call's JSON is looked at
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "stop"}


@dataclass
class _CallSoFar:
    """A call of a tool, of which pieces have come."""

    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def opening(self) -> str:
        return f'<tool_call>{{"name": {json.dumps(self.name)}, "arguments": '


@dataclass
class AnswerAssembler:
    """Assembly of one streamed answer, chunk by chunk.

    Calls of tools become text as models write them, which is how an Engine says them: the first
    call as it comes, the others behind it, and text that comes after a call at the end.
    """

    reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    num_said: int = 0
    num_sure: int = 0  # tokens whose log-probability was told
    calls: list[_CallSoFar] = field(default_factory=list)
    _places: dict[int | None, int] = field(default_factory=dict)  # of the last call of an index
    _num_named: int = 0  # pieces of calls that told a name
    late: list[str] = field(default_factory=list)
    thinking: bool = False
    route: Route = Route(served_by="cloud", reason="cloud_only")  # noqa: RUF009 - frozen

    def take(self, chunk: Chunk) -> Delta | None:
        """Take the next event and return what it adds to the answer. Raises CloudFailed."""
        if chunk.error is not None:
            raise CloudFailed("the upstream server broke off its answer; see its log")
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details
            self.route = _route(chunk.usage.route) or self.route
            self.usage = Usage(
                prompt_tokens=_counted(chunk.usage.prompt_tokens),
                cached_tokens=_counted((details.cached_tokens or 0) if details else 0),
                completion_tokens=_counted(chunk.usage.completion_tokens),
            )
        text, sure = "", tuple[Confidence, ...]()
        for choice in (chunk.choices or ())[:1]:
            sure = confidences(choice.logprobs)
            self.num_sure += len(sure)
            self.reason = choice.finish_reason or self.reason
            text = choice.text or self._with_thoughts(choice.delta)
            if self.calls and text:
                self.late.append(text)
                text = ""
            for call in (choice.delta.tool_calls if choice.delta else None) or ():
                text += self._add(call)
        return self._delta(text, sure) if text or sure else None

    def rest(self) -> Delta | None:
        """Return what was kept back until the end: other calls than the first, and late text."""
        said = ["\n</think>\n\n"] if self.thinking else []
        for number, call in enumerate(self.calls):
            if number or not call.arguments:  # else all but its end has been said
                said += [call.opening(), *(call.arguments or ["{}"])]
            said.append("}</tool_call>")
        said += self.late
        return self._delta("".join(said)) if any(said) else None

    def finish(self, *, prefill_s: float, seconds: float) -> Finish:
        """Return the end of the answer, whose first piece came after `prefill_s`.

        Raises CloudFailed where it was cut off or withheld.
        """
        if self.reason is None:
            raise CloudFailed("the upstream server ended its answer in the middle; ask again")
        if self.reason not in _REASONS:
            raise CloudFailed(
                f"the upstream server withheld its answer ({self.reason[:40]}); ask otherwise"
            )
        usage = msgspec.structs.replace(
            self.usage,
            completion_tokens=self.usage.completion_tokens or self.num_sure,
            prefill_s=prefill_s,
            decode_s=seconds - prefill_s,
        )
        return Finish(reason=_REASONS[self.reason], usage=usage, route=self.route)

    def _with_thoughts(self, said: _Said | None) -> str:
        """Return a piece of the answer, thoughts between tags as an Engine says them."""
        if said is None:
            return ""
        thought, content, text = said.reasoning_content or said.reasoning, said.content or "", ""
        if thought:
            text, self.thinking = ("" if self.thinking else "<think>\n") + thought, True
        if self.thinking and (content or said.tool_calls):
            text, self.thinking = text + "\n</think>\n\n", False
        return text + content

    def _add(self, call: _Call) -> str:
        """Keep a piece of a call; return what can be said of it at once."""
        said = call.function or _Function()
        known, piece = self._known(call, said), said.arguments or ""
        begins = bool(piece) and not known.arguments
        known.name += said.name or ""
        if piece:
            known.arguments.append(piece)
        if known is not self.calls[0]:
            return ""
        return known.opening() + piece if begins else piece

    def _known(self, call: _Call, said: _Function) -> _CallSoFar:
        """Return the call that a piece belongs to, a new one where none has begun.

        Some servers give all parallel calls the index 0, some give none: then a new id begins a
        call, and so does a name behind whole arguments.
        """
        self._num_named += bool(said.name)
        if len(self.calls) >= MAX_TOOL_CALLS or self._num_named > _MOST_NAMED:
            raise CloudFailed("the upstream server calls tools without an end; ask otherwise")
        if call.id and (same := next((c for c in self.calls if c.id == call.id), None)):
            return same
        at = self._places.get(call.index) if call.index is not None else len(self.calls) - 1
        if at is not None and at >= 0 and not self._is_another(at, call, said):
            return self.calls[at]
        self._places[call.index] = len(self.calls)
        self.calls.append(_CallSoFar(call.id or ""))
        return self.calls[-1]

    def _is_another(self, at: int, call: _Call, said: _Function) -> bool:
        if call.id and self.calls[at].id:
            return True  # one that has not been seen
        return bool(said.name) and _is_json("".join(self.calls[at].arguments))

    def _delta(self, text: str, sure: tuple[Confidence, ...] = ()) -> Delta:
        # Without token ids a piece counts as one; only the order matters.
        self.num_said += 1
        return Delta(text=text, index=self.num_said - 1, source="cloud", confidence=sure)


def confidences(logprobs: _Logprobs | None) -> tuple[Confidence, ...]:
    """Return how sure the model was of each token, in nats, from its likeliest tokens alone.

    What lies behind those is taken as one token more, so an entropy is a lower bound.
    """
    return tuple(_confidence(token) for token in (logprobs.content if logprobs else None) or ())


def _confidence(token: _Token) -> Confidence:
    best = sorted((each.logprob for each in token.top_logprobs or ()), reverse=True)
    best = best or [token.logprob]
    rest = max(0.0, 1.0 - math.fsum(math.exp(min(0.0, each)) for each in best))
    shares = [*(math.exp(min(0.0, each)) for each in best), rest]
    entropy = -math.fsum(share * math.log(share) for share in shares if share > 0.0)
    margin = best[0] - best[1] if len(best) > 1 else 0.0
    return Confidence(logprob=token.logprob, entropy=entropy, margin=margin)


class _Hop(msgspec.Struct):
    """A Hop or Route as a nearfar of any age tells it."""

    served_by: Side
    reason: str
    model: str = ""
    onward: Annotated[list[_Hop], Meta(max_length=MAX_HOPS)] = []


def _route(said: msgspec.Raw) -> Route | None:
    """Return who answered behind another nearfar; None where that is not told in such words."""
    try:
        told = msgspec.json.decode(said, type=_Hop | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if told is None:
        return None
    onward = tuple(
        Hop(served_by=each.served_by, reason=each.reason, model=each.model) for each in told.onward
    )
    return Route(served_by=told.served_by, reason=told.reason, model=told.model, onward=onward)


def _counted(number: int | None) -> int:
    # A budget is counted by it: a server's word can neither lower it nor leave SQLite's range.
    return min(max(number or 0, 0), _MOST_TOKENS)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


Path = Literal["/chat/completions", "/completions"]


def path_of(request: Request) -> Path:
    """Return where a request is posted, below the base URL."""
    return "/chat/completions" if request.messages else "/completions"
