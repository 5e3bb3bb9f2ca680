"""Bodies of Ollama's API, and what each asks in the words of OpenAI's bodies.

Source: ollama's docs/api.md. Fields that are not listed are read over, as ollama does; options that
would change the text and that no engine here has are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from offload.durations import seconds_of
from offload.errors import SettingsError
from serve.http_errors import BadRequest
from serve.request_schema import MAX_EMBEDDED, ChatBody, CompletionBody, explained

# ollama's names of what OpenAI's bodies call otherwise, or the same.
_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
# Each with the value that changes nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {"mirostat": (0,), "typical_p": (1, 1.0), "tfs_z": (1, 1.0)}


T = TypeVar("T")


class CalledFunctionBody(msgspec.Struct, frozen=True):
    """A function that a model called; its arguments are an object here."""

    name: str
    arguments: dict[str, Any] = {}


class CallBody(msgspec.Struct, frozen=True):
    """A call of a tool, of an earlier answer."""

    function: CalledFunctionBody
    id: str = ""


class MessageBody(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None


class _Asking(msgspec.Struct, kw_only=True, frozen=True):
    """What chats and completions have in common."""

    model: str
    stream: bool = True
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None

    def keep_alive_s(self) -> float | None:
        """Return how long the model shall stay in memory, None for the usual. Raises BadRequest."""
        return _keep_alive_s(self.keep_alive)

    def _fields(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields of an OpenAI body that model and options mean. Raises BadRequest."""
        options = self.options or {}
        for name, harmless in _REFUSED.items():
            if options.get(name) not in (None, *harmless):
                problem = f"options.{name} is not supported here; leave it out"
                raise BadRequest(problem, param=f"options.{name}")
        for ours, theirs in _OPTIONS.items():
            if options.get(ours) is not None:
                yield theirs, options[ours]
        num_predict = options.get("num_predict")
        # -1 is without end, -2 until the context is full.
        if isinstance(num_predict, int) and num_predict >= 0:
            yield "max_tokens", max(1, num_predict)
        if self.think is not None:
            yield "chat_template_kwargs", {"enable_thinking": self.think is not False}
        if self.format == "json":
            yield "response_format", {"type": "json_object"}
        elif isinstance(self.format, dict):
            named = {"name": "format", "schema": self.format}
            yield "response_format", {"type": "json_schema", "json_schema": named}


class OllamaChat(_Asking, kw_only=True, frozen=True):
    """The body of POST /api/chat."""

    messages: list[MessageBody] = []
    tools: list[dict[str, Any]] | None = None

    @property
    def only_loads(self) -> bool:
        """Whether nothing is asked but that the model be in memory, or out of it."""
        return not self.messages

    def asked(self, model: str) -> ChatBody:
        """Return the same as OpenAI's body. Raises BadRequest."""
        body = dict(self._fields())
        body |= {"model": model, "messages": list(_turns(self.messages))}
        if self.tools:
            body["tools"] = self.tools
        return _converted(body, ChatBody)


class OllamaGenerate(_Asking, kw_only=True, frozen=True):
    """The body of POST /api/generate: a question under the template, or a raw prompt."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False
    images: list[str] | None = None

    @property
    def only_loads(self) -> bool:
        """Whether nothing is asked but that the model be in memory, or out of it."""
        return not self.prompt and not self.suffix

    def asked(self, model: str) -> ChatBody | CompletionBody:
        """Return the same as OpenAI's body. Raises BadRequest."""
        _refuse_images(self.images, "images")
        if self.template:
            problem = "template is not supported here; leave it out, or write a raw prompt"
            raise BadRequest(problem, param="template")
        body = {**dict(self._fields()), "model": model}
        if self.raw or self.suffix:
            for name in ("chat_template_kwargs", "response_format"):
                body.pop(name, None)
            # ollama goes on until the model ends; OpenAI's own default is 16 tokens.
            body.setdefault("max_tokens", -1)
            suffix = {"suffix": self.suffix} if self.suffix else {}
            return _converted({**body, "prompt": self.prompt, **suffix}, CompletionBody)
        system = [{"role": "system", "content": self.system}] if self.system else []
        body["messages"] = [*system, {"role": "user", "content": self.prompt}]
        return _converted(body, ChatBody)


class OllamaEmbed(msgspec.Struct, kw_only=True, frozen=True):
    """The body of POST /api/embed, and of the older /api/embeddings, which has a prompt."""

    model: str
    input: str | Annotated[list[str], Meta(max_length=MAX_EMBEDDED)] | None = None
    prompt: str | None = None
    keep_alive: str | float | None = None

    def keep_alive_s(self) -> float | None:
        """Return how long the model shall stay in memory, None for the usual. Raises BadRequest."""
        return _keep_alive_s(self.keep_alive)

    def texts(self) -> list[str]:
        """Return the texts. Raises BadRequest where one is empty."""
        given = self.prompt if self.input is None else self.input
        texts = [given] if isinstance(given, str) else list(given or ())
        if not all(text.strip() for text in texts):
            raise BadRequest("input holds an empty text; write one", param="input")
        return texts


class OllamaModel(msgspec.Struct, kw_only=True, frozen=True):
    """The body of the paths that name a model: show, pull, delete; `name` is the older word."""

    model: str = ""
    name: str = ""
    stream: bool = True

    @property
    def said(self) -> str:
        """The model's name. Raises BadRequest where there is none."""
        if not (self.model or self.name):
            raise BadRequest("model is missing; name one", param="model")
        return self.model or self.name


def _keep_alive_s(written: str | float | None) -> float | None:
    if written is None or written == "":
        return None
    try:
        return seconds_of(written, "keep_alive")
    except SettingsError as error:
        raise BadRequest(str(error), param="keep_alive") from None


def _turns(messages: list[MessageBody]) -> Iterator[dict[str, Any]]:
    """Yield OpenAI's messages; calls that have no id are numbered, as are their answers."""
    open_calls: list[str] = []
    for at, each in enumerate(messages):
        turn: dict[str, Any] = {"role": each.role, "content": _content(each, f"messages[{at}]")}
        if each.thinking and each.role == "assistant":
            turn["reasoning_content"] = each.thinking
        if each.tool_calls:
            calls = [_call(call, f"call_{at}_{n}") for n, call in enumerate(each.tool_calls)]
            open_calls = [call["id"] for call in calls]
            turn["tool_calls"] = calls
        if each.role == "tool":
            answered = each.tool_call_id or (open_calls.pop(0) if open_calls else None)
            turn |= {"tool_call_id": answered} if answered else {}
        yield turn


def _call(call: CallBody, number: str) -> dict[str, Any]:
    arguments = json.dumps(call.function.arguments, ensure_ascii=False)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or number, "type": "function", "function": function}


def _content(message: MessageBody, at: str) -> str | list[dict[str, Any]] | None:
    """Return the content in OpenAI's form; ollama's clients send pictures as bare base64."""
    if not message.images:
        return message.content
    if message.role != "user":
        _refuse_images(message.images, f"{at}.images")
    urls = [f"data:image/jpeg;base64,{each}" for each in message.images]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*parts, {"type": "text", "text": message.content or ""}]


def _refuse_images(images: list[str] | None, at: str) -> None:
    if images:
        raise BadRequest(
            f"{at}: pictures are read with messages of role user in /api/chat alone", param=at
        )


def _converted(body: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise explained(str(error)) from None
