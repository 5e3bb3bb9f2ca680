"""Client of an OpenAI-compatible server, used as an engine: vLLM, SGLang, llama.cpp, ..."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from backbone.errors import MissingExtra
from offload.aims import LISTED
from offload.answer_bounds import AnswerBounds
from offload.asker import asker, asker_digest
from offload.carried import HEADER, header_of
from offload.chain import Waypoint
from offload.engine import AnswerStream
from offload.errors import CloudFailed, CloudUnreachable, LinkError, RequestError, SettingsError
from offload.messages import MAX_NAME_LEN, Finish, ModelCard, Privacy, Request
from offload.upstream.bodies import AnswerAssembler, Chunk, ModelList, body_of, path_of
from offload.upstream.dialect import OPENAI_HOST, Dialect, check, dialect_of
from offload.upstream.listening import (
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    PLAIN,
    DeadlinePassed,
    Patience,
    body_within,
    lines_within,
    refusal,
)

if TYPE_CHECKING:
    import httpx

_TOP = 20  # likeliest tokens of a near server that are asked for: OpenAI's most
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.25
_ASSUMED_LEN = 1_000_000  # where a server does not say its context; it refuses what is too long


class Upstream:
    """Upstream engine over HTTP; it connects at the first use."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        api_key: str = "",
        connect_timeout_s: float = 5.0,
        silence_timeout_s: float = 120.0,
        for_tenants: bool = False,
        is_near: bool = False,
        sees: bool | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take a base URL such as http://gpu:8000/v1. Raises SettingsError, MissingExtra.

        `silence_timeout_s` is the longest wait for the next piece of an answer. `for_tenants` lets
        a server that has a word for it keep the caches of those who ask (offload/asker.py) apart.
        `is_near` is a server on this device: text does not leave by it, and each token's
        log-probability is asked for, from which its Confidence follows. `sees` says whether its
        model sees pictures; None asks the server, and few say.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise SettingsError(f"{url!r} is no server's address; write http(s)://HOST:PORT/v1")
        self._url, self._host, self._wanted = url.rstrip("/"), parts.hostname, model
        self._client = _client(self._url, key_for(self._host, api_key), transport)
        self._for_tenants, self._is_near = for_tenants, is_near
        self._waypoint = Waypoint()
        self._sees, self._says_it_sees = sees, False
        self._limits = (connect_timeout_s, silence_timeout_s)
        self._card: ModelCard | None = None
        self._asked = model  # the name that goes into a request
        self.reached: bool | None = None  # how the last attempt went
        self._dialect: Dialect | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> ModelCard:
        """Ask the server for its models, and return the card of ours. Raises LinkError."""
        async with self._connecting:
            if self._card is None:
                with self._noted():
                    await self._learn()
        return self.card()

    async def look(self) -> None:
        """Ask the server for its models again, to know whether it is there. Raises LinkError."""
        async with self._connecting:
            with self._noted():
                await self._learn()

    def card(self) -> ModelCard:
        """Return what the server says it runs. Raises CloudUnreachable before `connect`."""
        if self._card is None:
            raise CloudUnreachable(
                f"{self._url} has not been asked yet, so that its model is unknown; connect first"
            )
        return self._card

    async def sees(self) -> bool:
        """Whether its model sees pictures. See Seeing."""
        if self._sees is None:
            await self.connect()
        return self._says_it_sees if self._sees is None else self._sees

    def continues(self, request: Request) -> bool:
        """Whether the server could go on from an answer's beginning. See Continuing."""
        dialect = self._dialect
        return request.prompt is not None or (dialect is not None and dialect.continues)

    @property
    def shares_caches(self) -> bool:
        """Whether the server keeps one prefix cache for all who ask it. Known since `connect`."""
        assert self._dialect is not None, "connect() learns what it is"
        return "cache_salt" not in self._dialect.words

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the server's answer; see offload.engine.Engine.

        Raises Unsupported for what such a server cannot do, and LinkError.
        """
        if request.privacy is Privacy.LOCAL_ONLY and not self._is_near:
            raise RequestError("a local_only request may not leave the device; answer it near")
        await self.connect()
        assert self._dialect is not None, "known since connect"
        if self._for_tenants:  # elsewhere the egress door in front of it is a place of its own
            request = self._waypoint.onward(self._salted(request))
        check(request, self._dialect)
        body = body_of(request, self._asked, self._dialect)
        if self._is_near and request.messages:  # raw prompts' are told in several other forms
            body |= {"logprobs": True, "top_logprobs": _TOP}
        bounds, assembler = AnswerBounds(request), AnswerAssembler()
        began_s, first_s = time.monotonic(), None
        until_s = None if request.deadline_s is None else began_s + request.deadline_s
        said = {HEADER: header_of(request)} if self._dialect.carries else {}
        with self._noted():
            async with self._posted(path_of(request), body, until_s, said) as response:
                try:
                    patience = Patience(self._url, self._limits[1], until_s)
                    async for chunk in _chunks(response, self._url, patience):
                        delta = assembler.take(chunk)
                        if delta is not None:
                            first_s = _age_s(began_s) if first_s is None else first_s
                            yield bounds.take(delta)
                            patience.news()  # not before: the reader took its own time
                        patience.check()
                except DeadlinePassed:
                    yield bounds.end(Finish(reason="deadline", usage=assembler.usage))
                    return
                rest = assembler.rest()
                if rest is not None:
                    yield bounds.take(rest)
                whole_s = _age_s(began_s)
                finish = assembler.finish(prefill_s=first_s or whole_s, seconds=whole_s)
                yield bounds.end(finish)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note whether the server could be reached."""
        try:
            yield
        except CloudUnreachable:
            self.reached = False
            raise
        self.reached = True

    def _salted(self, request: Request) -> Request:
        assert self._dialect is not None, "known since connect"
        if not asker() or not self._dialect.has_word("cache_salt", request):
            return request
        return msgspec.structs.replace(request, cache_salt=asker_digest(request.cache_salt))

    async def _learn(self) -> None:
        async with self._reply("GET", "/models", None, None) as response:
            patience = Patience(self._url, self._limits[1])
            raw, _ = await body_within(response, MAX_BODY_BYTES, patience)
        try:
            listed = msgspec.json.decode(raw, type=ModelList)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CloudFailed(
                f"{self._url}/models is no list of models; give the base URL that ends in /v1"
            ) from None
        models = listed.data
        names = [model.id[:MAX_NAME_LEN] for model in models]
        if not names or (self._wanted and self._wanted not in names):
            has = ", ".join(names[:20]) or "none"
            raise CloudFailed(f"{self._url} has no model {self._wanted!r}; it has {has}")
        self._asked = self._wanted or names[0]
        at = names.index(self._asked)
        model, self._says_it_sees = models[at], listed.sees(at)
        self._dialect = dialect_of(model.owned_by or "", self._host)
        # The first name of another nearfar is "auto", by which it chooses; its model has another.
        shown = next((each for each in names if each not in LISTED), self._asked)
        name = shown if self._asked in LISTED else self._asked
        self._card = _card(name, self._dialect, model.max_model_len)

    @asynccontextmanager
    async def _posted(
        self, path: str, body: dict[str, Any], until_s: float | None, headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Post a body, again where the server was not there; yields only a good reply."""
        pause_s, was_there = _FIRST_PAUSE_S, False
        for left in reversed(range(_ATTEMPTS)):
            try:
                async with self._reply("POST", path, body, until_s, headers) as response:
                    left = 0  # an answer has begun: never asked twice
                    yield response
                return
            except CloudUnreachable as error:
                was_there = was_there or error.bytes_sent is None
                if was_there:
                    error.bytes_sent = None
                if not left or (until_s is not None and time.monotonic() + pause_s > until_s):
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2

    @asynccontextmanager
    async def _reply(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        until_s: float | None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        import httpx

        content = None if body is None else msgspec.json.encode(body)
        connect_s, silence_s = self._times(until_s)
        asked = self._client.build_request(
            method,
            self._url + path,
            content=content,
            headers=headers,
            timeout=httpx.Timeout(silence_s, connect=connect_s),
        )
        try:
            # In all: interim answers (100, 103) may come for ever before the head.
            response = await asyncio.wait_for(
                self._client.send(asked, stream=True), connect_s + silence_s
            )
            async with aclosing(response):
                if response.status_code != 200:
                    patience = Patience(self._url, silence_s)
                    start, _ = await body_within(response, MAX_ERROR_BYTES, patience)
                    again = response.headers.get("retry-after", "")
                    raise refusal(response.status_code, start, again, self._url)
                yield response
        except LinkError as error:
            error.bytes_sent = None if content else 0
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise CloudUnreachable(
                f"nothing answers at {self._url}; start the server, or mend the address"
            ) from None
        except (httpx.TimeoutException, asyncio.TimeoutError):
            raise _broken(f"{self._url} fell silent in the middle; ask again", content) from None
        except httpx.HTTPError as error:
            kind = type(error).__name__
            why = f"the connection to {self._url} broke ({kind}); ask again"
            raise _broken(why, content) from None

    def _times(self, until_s: float | None) -> tuple[float, float]:
        """Return how long to wait for a connection, and for something to be said over it."""
        connect_s, silence_s = self._limits
        if until_s is not None:
            silence_s = max(0.1, min(silence_s, until_s - time.monotonic()))
        return min(connect_s, silence_s), silence_s


def key_for(host: str, given: str) -> str:
    """Return the API key for a host: OPENAI_API_KEY goes to OpenAI's own host and no other."""
    if given:
        return given
    return os.environ.get("OPENAI_API_KEY", "") if host == OPENAI_HOST else ""


def _client(
    url: str, api_key: str, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    try:
        import httpx
    except ModuleNotFoundError:
        raise MissingExtra("httpx", "upstream") from None
    headers = {"content-type": "application/json", **PLAIN}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    # A proxy of the environment could read what is asked; a redirect would carry the key elsewhere.
    return httpx.AsyncClient(
        headers=headers, transport=transport, trust_env=False, follow_redirects=False
    )


def _broken(message: str, content: bytes | None) -> CloudFailed:
    error = CloudFailed(message)
    error.bytes_sent = None if content else 0  # how much of it had left, nobody counts here
    return error


def _age_s(began_s: float) -> float:
    return time.monotonic() - began_s


async def _chunks(response: httpx.Response, url: str, patience: Patience) -> AsyncIterator[Chunk]:
    """Yield the events of a stream until `[DONE]`. Raises LinkError for what is none."""
    async for line in lines_within(response, url, patience):
        name, _, data = line.partition(b":")
        if name != b"data" or not data.strip():
            continue
        if data.strip() == b"[DONE]":
            return
        try:
            yield msgspec.json.decode(data, type=Chunk)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise CloudFailed(
                f"{url} sent what is no event of an OpenAI server; give its base URL"
            ) from None


def _card(name: str, dialect: Dialect, max_model_len: int | None) -> ModelCard:
    return ModelCard(
        name=name,
        architecture="unknown",
        runtime=dialect.name,
        num_parameters=0,
        quantization="unknown",
        size_bytes=0,
        max_model_len=max(max_model_len or 0, 0) or _ASSUMED_LEN,
        chat=True,
    )
