"""Messages of both sides: Request, Delta, Finish, Route, ModelCard, as msgspec structs.

They are frozen, refuse unknown fields, and are checked where they are built, so that a decoded
message is as trustworthy as a constructed one.
"""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offload.errors import RequestError
from offload.priority import Priority

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled", "deadline", "error"]
Side = Literal["edge", "cloud"]

MAX_BIASED_TOKENS = 1024
MAX_STOP_TOKENS = 64
MAX_TOOLS = 128
MAX_MESSAGES = 4096
MAX_PICTURES = 8  # of one message
MAX_TOOL_CALLS = 128  # of one message
MAX_PROMPT_TOKENS = 1_048_576
MAX_STOPS = 16
MAX_TOKEN_ID = 2**31 - 1
MAX_SALT_LEN = 512
MAX_NAME_LEN = 200  # of a model of another machine, as it is shown and kept
MAX_HOPS = 8  # machines that a request may be passed on by

# A number of things, as another machine tells it: none is below zero, and sums stay in 64 bits.
Count = Annotated[int, Meta(ge=0, le=2**53)]


def _within(name: str, value: float, low: float, high: float) -> None:
    # `not (low <= value)` rather than `value < low`, so that NaN is refused too.
    if not low <= value <= high:
        raise RequestError(f"{name} is {value}; it must lie between {low} and {high}")


class Privacy(str, enum.Enum):
    """Privacy class: whether the content of a request may leave the device."""

    CLOUD_OK = "cloud_ok"
    ASK = "ask"
    LOCAL_ONLY = "local_only"


class BaseStruct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every message."""


class ToolCall(BaseStruct, frozen=True, kw_only=True):
    """A call of one of the caller's tools, as a model wrote it; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


PictureType = Literal["image/jpeg", "image/png", "image/webp"]


class Picture(BaseStruct, frozen=True, kw_only=True):
    """Picture that goes with a message; see offload/pictures.py."""

    media_type: PictureType
    data: bytes

    def __repr__(self) -> str:  # its bytes do not show
        return f"Picture({self.media_type}, {len(self.data)} bytes)"


class Message(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Message: one turn of a conversation; a turn of role "tool" answers the call `tool_call_id`.

    `reasoning` is what an assistant thought before its `content` (offload/thinking.py).
    `stays` keeps it on the device where the rest of the conversation may leave. `pictures` are
    shown to a model that can see, before the content.
    """

    role: Role
    content: str
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=MAX_TOOL_CALLS)] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    stays: bool = False
    pictures: Annotated[tuple[Picture, ...], Meta(max_length=MAX_PICTURES)] = ()


class Sampling(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling of tokens, and when to stop; temperature 0 is greedy, top_k 0 is no limit.

    `logprobs` asks for that many likeliest tokens at every place (Delta.alternatives),
    `prompt_logprobs` for the same of the prompt (Delta.prompt_tokens). `logit_bias` is added to
    the logits of the token ids it names. The answer ends before a token of `stop_token_ids`, as
    before the model's own ends; none of them comes before `min_tokens` tokens, and with
    `ignore_eos` the model's own never do. With `own` the model that answers draws as its files
    recommend (offload/own_sampling.py), where no other value is given here. From the logit of a
    token that stands in the answer already `presence_penalty` is taken, and `frequency_penalty`
    once for each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Annotated[tuple[str, ...], Meta(max_length=1024)] = ()
    max_tokens: int = 256
    logprobs: int = 0
    prompt_logprobs: bool = False
    logit_bias: Annotated[dict[int, float], Meta(max_length=65_536)] | None = None
    json_schema: dict[str, Any] | None = None
    stop_token_ids: Annotated[tuple[int, ...], Meta(max_length=MAX_STOP_TOKENS)] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    own: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @property
    def draws_own(self) -> bool:
        """Whether the model's own way is used: under a JSON schema nothing is drawn unasked."""
        return self.own and self.json_schema is None

    def __post_init__(self) -> None:
        if self.own and self.temperature:
            raise RequestError("a temperature is given, and the model's own asked for; choose one")
        _within("temperature", self.temperature, 0.0, 5.0)
        _within("top_p", self.top_p, 1e-9, 1.0)
        _within("top_k", self.top_k, 0, 1_000_000)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        _within("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _within("max_tokens", self.max_tokens, 1, 1_000_000)
        _within("logprobs", self.logprobs, 0, 20)
        for token_id, bias in (self.logit_bias or {}).items():
            _within("logit_bias: a token id", token_id, 0, 2**31 - 1)
            _within("logit_bias", bias, -100.0, 100.0)
        if len(self.logit_bias or {}) > MAX_BIASED_TOKENS:
            raise RequestError(f"logit_bias may name at most {MAX_BIASED_TOKENS} tokens")
        self._check_ends()
        if len(self.stop) > MAX_STOPS or any(not text for text in self.stop):
            raise RequestError("stop must be at most 16 strings, none of them empty")

    def _check_ends(self) -> None:
        for token_id in self.stop_token_ids:
            _within("stop_token_ids: a token id", token_id, 0, MAX_TOKEN_ID)
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise RequestError(f"stop_token_ids may name at most {MAX_STOP_TOKENS} tokens")
        _within("min_tokens", self.min_tokens, 0, self.max_tokens)
        if self.json_schema is not None and (self.min_tokens or self.ignore_eos):
            raise RequestError(
                "min_tokens and ignore_eos would go on behind the end of a JSON schema's answer; "
                "leave them out, or the schema"
            )


def sampling_at(temperature: float | None, **rest: Any) -> Sampling:
    """Return a sampling at a temperature; without one the model's own is used."""
    if temperature is None:
        return Sampling(own=True, **rest)
    return Sampling(temperature=temperature, **rest)


class Budget(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Budget of one request; None is no limit."""

    max_cost: float | None = None  # in the currency of the settings
    max_bytes_sent: int | None = None


class Request(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Request to an engine: a conversation, a raw prompt, or a prompt of token ids; one of them.

    `deadline_s` counts from when the request is received, since clocks differ between machines.
    `model` is the name the caller asked for; empty is the engine's own. `tools` are OpenAI's
    function descriptions, handed to the chat template. `answer_prefix` is how the answer begins
    already: the engine goes on behind it and does not repeat it. `prompt_token_ids` are of the
    vocabulary of the engine that reads them, which adds none. An engine shares what it computed
    of a prompt only between requests of the same asker and the same `cache_salt`. With a `suffix`
    the answer is what stands between the raw prompt and it (fill-in-the-middle).
    `template_options` are further variables of the chat template, such as enable_thinking.
    Of a prompt that is to be judged (Sampling.prompt_logprobs) `scored_turn` is the message whose
    tokens matter: what stands before it may come from a prefix cache, and is not told then.
    `via` are the places that it was passed on from (offload/chain.py), the first of them first.
    """

    id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    messages: Annotated[tuple[Message, ...], Meta(max_length=MAX_MESSAGES)] = ()
    prompt: str | None = None
    prompt_token_ids: Annotated[tuple[int, ...], Meta(max_length=MAX_PROMPT_TOKENS)] = ()
    sampling: Sampling = Sampling()
    privacy: Privacy = Privacy.CLOUD_OK
    deadline_s: float | None = None
    budget: Budget = Budget()
    session: str | None = None
    model: str = ""
    tools: Annotated[tuple[dict[str, Any], ...], Meta(max_length=MAX_TOOLS)] = ()
    answer_prefix: str = ""
    cache_salt: str = ""
    suffix: str = ""
    template_options: dict[str, Any] | None = None
    scored_turn: int | None = None
    via: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MAX_HOPS)] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.id) <= 64:
            raise RequestError("a request's id must have 1 to 64 characters")
        kinds = (bool(self.messages), self.prompt is not None, bool(self.prompt_token_ids))
        if sum(kinds) != 1:
            raise RequestError(
                "a request has messages, a prompt or prompt_token_ids; give exactly one"
            )
        if len(self.messages) > MAX_MESSAGES:
            raise RequestError(
                f"{len(self.messages)} messages are given and {MAX_MESSAGES} may be; "
                "leave out the oldest"
            )
        if self.prompt_token_ids:
            _within("prompt_token_ids", min(self.prompt_token_ids), 0, MAX_TOKEN_ID)
            _within("prompt_token_ids", max(self.prompt_token_ids), 0, MAX_TOKEN_ID)
        if len(self.cache_salt) > MAX_SALT_LEN:
            raise RequestError(f"cache_salt must have at most {MAX_SALT_LEN} characters")
        if len(self.model) > 256:
            raise RequestError("a model's name must have at most 256 characters")
        if len(self.tools) > MAX_TOOLS:
            raise RequestError(f"{len(self.tools)} tools are given; at most {MAX_TOOLS} may be")
        # A tool that has nothing to say has answered.
        answers_call = bool(self.messages) and self.messages[-1].role == "tool"
        if self.suffix and (self.prompt is None or self.answer_prefix):
            raise RequestError("a suffix stands behind a raw prompt alone; leave the rest out")
        shows = bool(self.messages and self.messages[-1].pictures)
        if not (answers_call or shows) and not (self.suffix or self.last_text()).strip():
            raise RequestError("the prompt is empty; write a question")
        if self.deadline_s is not None:
            _within("deadline_s", self.deadline_s, 0.001, 86_400.0)
        if self.scored_turn is not None:
            _within("scored_turn", self.scored_turn, 1, len(self.messages) - 1)
            if not self.sampling.prompt_logprobs:
                raise RequestError("scored_turn needs prompt_logprobs; ask for both or for neither")

    def last_text(self) -> str:
        """Return the raw prompt, or the content of the last message.

        Of token ids nothing can be read but their number.
        """
        if self.prompt_token_ids:
            return f"({len(self.prompt_token_ids)} token ids)"
        return self.prompt if self.prompt is not None else self.messages[-1].content


class ForwardedRequest(Request, frozen=True, kw_only=True, omit_defaults=True):
    """Request that a server passes on to one of its own: for whom, and how urgent it is.

    Nobody else is believed: it is a type of its own, so that no device's request can hold these.
    """

    asker: Annotated[str, Meta(max_length=MAX_SALT_LEN)] = ""
    priority: Priority = "interactive"


class Confidence(msgspec.Struct, frozen=True, array_like=True):
    """Confidence of the model in one token, in nats: of the chosen one, and of the whole choice."""

    logprob: float
    entropy: float
    margin: float  # log-probability of the best token less that of the second


class Alternative(msgspec.Struct, frozen=True, array_like=True):
    """Alternative token at one place; `text` replaces bytes that are no character."""

    token_id: int
    text: str
    logprob: float  # nats, before temperature and bias


class PromptToken(msgspec.Struct, frozen=True, array_like=True):
    """A token of the prompt, how likely the model found it, and what it found likeliest there.

    The first token has nothing before it, so its logprob is None. `rank` counts the tokens that
    were likelier, `entropy` is that of the choice, in nats; None where an engine does not tell.
    """

    token_id: int
    text: str
    logprob: float | None
    alternatives: tuple[Alternative, ...] = ()
    rank: int | None = None
    entropy: float | None = None


class Delta(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Delta: the next piece of an answer; `index` is the position of its first token in the answer.

    `source` says which side wrote it. `replaces` withdraws all text before it: the other side
    starts the answer anew. `alternatives` has one entry for each of `token_ids` where
    Sampling.logprobs asked for them, the likeliest first. `prompt_tokens` comes once, in the first
    Delta, where Sampling.prompt_logprobs asked for it. `accepted` is how many characters of the
    answer, from its start, stand whatever comes; None where that is not told (Routing.settling).
    """

    text: str = ""
    index: int = 0
    token_ids: tuple[int, ...] = ()
    confidence: tuple[Confidence, ...] = ()
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    prompt_tokens: tuple[PromptToken, ...] = ()
    source: Side | None = None
    replaces: bool = False
    accepted: int | None = None

    def apply(self, text: str) -> str:
        """Return the answer's text with this piece: behind what stood there, or in its place."""
        return self.text if self.replaces else text + self.text


class Usage(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Usage of an answer; seconds are those of the side that served it."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt's: found in a cache, and not computed again
    completion_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    cost: float = 0.0
    placeholders_in_links: int = 0  # left there, since a click would carry the originals away
    num_replaced: int = 0  # values for which a placeholder left in their stead

    def plus(self, other: Usage) -> Usage:
        """Return what both took together."""
        names = self.__struct_fields__
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in names})


class Hop(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Hop: a place beyond the far side that was asked, which chose between two sides of its own.

    `served_by` and `reason` are as in its Route; `model` names who wrote the answer for it.
    """

    served_by: Side
    reason: str
    model: str = ""


class Route(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Route of an answer: who gave it and why; `reason` is one of the codes of offload/reasons.py.

    `confidence` is the probability, as the policy judged it, that the near model's answer is
    right; `p_gain` what it expected the cloud to add to that. `failure` is the one line that says
    why the far model could not answer, where it was asked in vain. `sent_is_known` says whether
    Usage.bytes_sent is all that left, where the cloud failed or was given up; None elsewhere.
    `cut` says that the near answer ran in circles and was cut where that began.
    `left_out` counts the turns that stayed on the device when the cloud answered. `model` names who
    wrote the answer, and `begun_by` the other side's model, where that wrote its beginning.
    `checked` says that the far model read the near answer before it was decided. `visits` counts
    those in which it wrote a few words of the near model's answer. `far_read` and `far_written`
    are the tokens of the far model in all that it did for this answer, as far as it told them.
    `onward` are the places beyond the far side, nearest first, where that passed the request on.
    """

    served_by: Side
    reason: str
    confidence: float | None = None
    p_gain: float | None = None
    failure: str | None = None
    sent_is_known: bool | None = None
    cut: bool = False
    left_out: int = 0
    model: str = ""
    begun_by: str = ""
    checked: bool = False
    visits: Count = 0
    far_read: Count = 0
    far_written: Count = 0
    onward: Annotated[tuple[Hop, ...], Meta(max_length=MAX_HOPS)] = ()


class Sampled(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampled: how the tokens of an answer were drawn; the same values and seed draw it again."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


class Finish(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Finish: the end of an answer; `error` is the one line a person reads when reason is "error".

    `sampled` says how its tokens were drawn, None where each was the likeliest.
    """

    reason: FinishReason
    usage: Usage = Usage()
    route: Route | None = None
    dropped_tokens: int = 0
    error: str | None = None
    sampled: Sampled | None = None


class EngineLoad(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Load of an engine now, and how often its prefix cache has been of use since its start.

    `kv_cache_usage` is the share of its cache that running answers hold, 0 to 1.
    Running and waiting are those that somebody reads, `num_batch` the requests of batch work.
    `prefix_cache_queries` are tokens of prompts that were looked up, `prefix_cache_hits` those of
    them that were found.
    """

    num_running: Count = 0
    num_waiting: Count = 0
    num_batch: Count = 0
    kv_cache_usage: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    prefix_cache_queries: Count = 0
    prefix_cache_hits: Count = 0
    num_preemptions: Count = 0


class ModelCard(BaseStruct, frozen=True, kw_only=True, omit_defaults=True):
    """Card of a model: what an engine runs and can do."""

    name: str
    architecture: str
    runtime: str  # "llama.cpp", "torch", ...
    num_parameters: Count
    quantization: str  # "q4_k_m", "bf16", ...
    size_bytes: Count
    max_model_len: Count
    chat: bool = False  # has a chat template
    vocab_size: Count = 0  # token ids are below it; 0 where that is not known

    def shortened(self) -> ModelCard:
        """Return the card with no text longer than a line, as another machine may send."""
        texts = {
            name: value[:MAX_NAME_LEN]
            for name in self.__struct_fields__
            if isinstance(value := getattr(self, name), str)
        }
        return msgspec.structs.replace(self, **texts)
