"""Request schema: the bodies that clients send, in OpenAI's form, and their decoding.

A field that is not listed is refused, so that a misspelt one is never silently without effect.
Fields typed `Ignored` change nothing about the answer's text and are read over; fields typed `Any`
ask for what no engine here can do, and serve/request_parsing.py refuses them unless they are empty.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from backbone.errors import cause
from offload.messages import MAX_MESSAGES
from serve.http_errors import BadRequest

Ignored = Any
# Lists and objects: each takes 64 bytes and more when it is built, and two in the body.
MAX_CONTAINERS = 400_000
MAX_EMBEDDED = 2048  # texts of one request, as OpenAI has it

MaxTokens = Annotated[int, Meta(ge=-1, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Stop = Annotated[str, Meta(min_length=1, max_length=1000)]
ToolName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$")]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class RequestBody(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of every body."""


class ImageUrl(msgspec.Struct, frozen=True):
    """A picture in a data: URL."""

    url: str


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content: a text or a picture."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class CalledFunction(RequestBody, kw_only=True, frozen=True):
    """Function call of an assistant; `arguments` is JSON text."""

    name: ToolName
    arguments: str


class CalledTool(RequestBody, kw_only=True, frozen=True):
    """One call of a tool in an assistant's message."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    function: CalledFunction
    type: Literal["function"] = "function"
    index: Ignored = None


class TurnBody(RequestBody, kw_only=True, frozen=True):
    """Turn of a chat body; an assistant's own may be sent back as it was received."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: Ignored = None
    tool_call_id: Annotated[str, Meta(max_length=256)] | None = None
    reasoning_content: str | None = None  # as DeepSeek and vLLM call what came before the answer
    reasoning: str | None = None  # the same
    refusal: Ignored = None
    annotations: Ignored = None
    tool_calls: Annotated[list[CalledTool], Meta(max_length=128)] | None = None
    function_call: Any = None
    audio: Any = None


class FunctionBody(RequestBody, kw_only=True, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Ignored = None


class ToolBody(RequestBody, kw_only=True, frozen=True):
    """A tool that the model may call."""

    function: FunctionBody
    type: Literal["function"] = "function"


class ChosenFunction(RequestBody, kw_only=True, frozen=True):
    """The name of a function."""

    name: str


class ChosenTool(RequestBody, kw_only=True, frozen=True):
    """The tool that the model must call."""

    function: ChosenFunction
    type: Literal["function"] = "function"


class StreamOptions(RequestBody, kw_only=True, frozen=True):
    """Stream options: what a stream tells besides the text."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class NamedSchema(RequestBody, kw_only=True, frozen=True):
    """A JSON schema that the answer must follow."""

    name: str
    schema: dict[str, Any]
    description: Ignored = None
    strict: Ignored = None


class ResponseFormat(RequestBody, kw_only=True, frozen=True):
    """Response format: the form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class Common(RequestBody, kw_only=True, frozen=True):
    """Fields that both kinds of completion take."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    max_tokens: MaxTokens | None = None  # -1: as many as the context holds, as llama.cpp has it
    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None  # as vLLM: -1 and 0 are none
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10.0)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=1024)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=64)] | None = None  # and these, vLLM's
    min_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    ignore_eos: bool | None = None
    user: Ignored = None
    cache_salt: Annotated[str, Meta(max_length=256)] | None = None  # as vLLM's
    cache_prompt: bool | None = None  # as llama.cpp's: false computes the whole prompt anew


class ChatBody(Common, kw_only=True, frozen=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[TurnBody], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    continue_final_message: bool | None = None  # as vLLM's
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # as vLLM's
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Any = None
    moderation: Any = None
    web_search_options: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    reasoning_effort: Ignored = None
    verbosity: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None


class CompletionBody(Common, kw_only=True, frozen=True):
    """The body of POST /v1/completions.

    `prompt` is a text, its token ids, or several of either; serve/prompts.py tells them apart.
    """

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
    max_tokens: MaxTokens | None = None  # 0 scores an echoed prompt
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class EmbeddingBody(RequestBody, kw_only=True, frozen=True):
    """The body of POST /v1/embeddings; token ids are refused by their type."""

    model: Annotated[str, Meta(min_length=1, max_length=200)]
    input: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_EMBEDDED)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Any = None
    user: Ignored = None


class TokenizeBody(RequestBody, kw_only=True, frozen=True):
    """The body of POST /tokenize, vLLM's: a raw prompt or a conversation."""

    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    prompt: str | None = None
    messages: Annotated[list[TurnBody], Meta(min_length=1)] | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=128)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(RequestBody, kw_only=True, frozen=True):
    """The body of POST /detokenize, vLLM's."""

    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    tokens: list[TokenId]


Naming = Common | EmbeddingBody | TokenizeBody | DetokenizeBody  # bodies that name a model
B = TypeVar("B", bound=RequestBody)
N = TypeVar("N", bound=Naming)

_PATH = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"field `(?P<field>[^`]*)`")


def decode(raw: bytes, kind: type[B]) -> B:
    """Return the body. Raises BadRequest, naming the field where one is at fault."""
    require_few_containers(raw)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise explained(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON ({cause(error)}); send one JSON object") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply; send a flatter one") from None


def require_few_containers(raw: bytes) -> None:
    """Raise BadRequest for a body of so many lists that building them would fill the memory."""
    if raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS:
        raise BadRequest(f"the body has more than {MAX_CONTAINERS} brackets; send a smaller one")


def explained(fault: str) -> BadRequest:
    """Return msgspec's complaint of a body as an error that names the field."""
    at = _PATH.search(fault)
    path = at["path"] if at else ""
    named = _FIELD.search(fault)
    param = ".".join(part for part in (path, named["field"] if named else "") if part)
    reason = fault[: at.start()] if at else fault
    where = f"{param}: " if param else ""
    return BadRequest(f"{where}{reason}; see GET /openapi.json for the form", param=param or None)
