"""Dialects of OpenAI-compatible servers: what each understands beyond OpenAI's own fields.

A server is known by what it says of its models (`owned_by`). Of one that is not known, only
OpenAI's own words are asked: a server that does not know a word often ignores it silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from offload.errors import Unsupported
from offload.messages import Request

OPENAI_HOST = "api.openai.com"

Extra = float | int | str | list[int] | dict[str, Any]  # the value of a word that is not OpenAI's

_VLLM_WORDS = {
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "stop_token_ids": "stop_token_ids",
    "min_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
    "reasoning_content": "reasoning_content",
    "chat_template_kwargs": "chat_template_kwargs",
}
_SALT = {"cache_salt": "cache_salt"}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Dialect of one kind of server; `words` are its names for what OpenAI has no name for.

    `ignores` are OpenAI's own words that it reads over in silence, so that they must not be asked.
    `chat_words` are those of `words` that it takes with messages and not with a raw prompt.
    One that `always_samples` takes no temperature of 0 for the likeliest token.
    """

    name: str
    words: dict[str, str] = field(default_factory=dict)
    chat_words: frozenset[str] = frozenset()
    max_tokens: str = "max_tokens"
    continues: bool = False  # goes on behind a begun answer, by continue_final_message
    ignores: frozenset[str] = frozenset()
    always_samples: bool = False
    carries: bool = False  # a nearfar: it reads offload/carried.py, and tells its route

    def has_word(self, name: str, request: Request) -> bool:
        """Whether it has a word of its own for this, in the body that the request becomes."""
        return name in self.words and bool(request.messages or name not in self.chat_words)


_KNOWN = {
    "vllm": Dialect(name="vLLM", words=_VLLM_WORDS | _SALT, continues=True),
    "sglang": Dialect(name="SGLang", words=_VLLM_WORDS | _SALT, continues=True),
    "tensorrt_llm": Dialect(
        name="trtllm-serve", words=_VLLM_WORDS | _SALT, chat_words=frozenset(_SALT)
    ),
    "llamacpp": Dialect(
        name="llama.cpp server",
        words={
            "top_k": "top_k",
            "min_p": "min_p",
            "repetition_penalty": "repeat_penalty",
            "ignore_eos": "ignore_eos",
            "reasoning_content": "reasoning_content",
            "chat_template_kwargs": "chat_template_kwargs",
        },
    ),
    "me": Dialect(  # what llama-cpp-python's server says
        name="llama-cpp-python",
        words={"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"},
    ),
    "deepspeed-mii": Dialect(
        name="DeepSpeed-MII",
        words={"top_k": "top_k"},
        ignores=frozenset(
            {"seed", "logit_bias", "penalties", "json_schema", "tools", "token ids", "more stops"}
        ),
        always_samples=True,
    ),
    "nearfar": Dialect(name="nearfar", words=_VLLM_WORDS | _SALT, continues=True, carries=True),
}
_UNKNOWN = Dialect(name="this server")
_OPENAI = Dialect(name="OpenAI", max_tokens="max_completion_tokens")


def dialect_of(owner: str, host: str) -> Dialect:
    """Return how to speak to a server at this host whose models say they are owned so."""
    return _OPENAI if host == OPENAI_HOST else _KNOWN.get(owner.lower(), _UNKNOWN)


def check(request: Request, dialect: Dialect) -> None:
    """Raise Unsupported for what such a server has no word for."""
    sampling = request.sampling
    _refuse("logprobs", sampling.logprobs > 0 or sampling.prompt_logprobs, "no token ids", dialect)
    begun = bool(request.answer_prefix and request.messages and not dialect.continues)
    begun |= bool(request.answer_prefix and request.prompt_token_ids)
    _refuse("answer_prefix", begun, "no way to go on with an answer", dialect)
    for name, is_asked in _plain(request).items():
        _refuse(name, is_asked and name in dialect.ignores, "no support for it", dialect)
    _refuse("suffix", bool(request.suffix), "no known way to fill in the middle", dialect)
    for name, value in _extras(request).items():
        is_unknown = value is not None and not dialect.has_word(name, request)
        _refuse(name, is_unknown, "no field for it", dialect)


def extra_words(request: Request, dialect: Dialect) -> dict[str, Extra]:
    """Return the fields that are this server's own, as far as the request asks for them."""
    wanted = {name: value for name, value in _extras(request).items() if value is not None}
    said = {dialect.words[name]: value for name, value in wanted.items()}
    sampling = request.sampling
    if dialect.always_samples and sampling.temperature == 0.0 and not sampling.draws_own:
        said |= {"temperature": 1.0, dialect.words["top_k"]: 1}  # the likeliest alone to draw from
    return said


def _plain(request: Request) -> dict[str, bool]:
    """Return which of OpenAI's own words are asked for that some servers do not hear."""
    sampling, calls = request.sampling, any(turn.tool_calls for turn in request.messages)
    return {
        "seed": sampling.seed is not None and sampling.temperature > 0.0,
        "logit_bias": bool(sampling.logit_bias),
        "penalties": bool(sampling.presence_penalty or sampling.frequency_penalty),
        "json_schema": sampling.json_schema is not None,
        "tools": bool(request.tools) or calls,
        "token ids": bool(request.prompt_token_ids),
        "more stops": len(sampling.stop) > 1,
    }


def _extras(request: Request) -> dict[str, Extra | None]:
    sampling = request.sampling
    return {
        "cache_salt": request.cache_salt or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "min_tokens": sampling.min_tokens or None,
        "ignore_eos": sampling.ignore_eos or None,
        "chat_template_kwargs": request.template_options or None,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "repetition_penalty": (
            None if sampling.repetition_penalty == 1.0 else sampling.repetition_penalty
        ),
    }


def _refuse(name: str, is_asked: bool, why: str, dialect: Dialect) -> None:
    if is_asked:
        raise Unsupported(
            f"{name} cannot be asked of {dialect.name}, which has {why}; leave it out"
        )
