"""llama-server as the near engine: a llama.cpp that runs already, where none can be compiled.

Its log-probabilities of the 20 likeliest tokens feed the policy. What it is not asked for: its own
KV cache, drafts, adapters and sessions are set where it was started; hidden states, token ids and
embeddings stay with it.
"""

from __future__ import annotations

import contextlib
import time

import msgspec

from backbone.errors import MissingExtra, cause
from offload.engine import AnswerStream
from offload.errors import EngineStopped, LinkError
from offload.messages import Count, ModelCard, Request
from offload.upstream.client import Upstream
from offload.upstream.listening import MAX_BODY_BYTES, PLAIN

_TIMEOUT_S = 5.0
_UNKNOWN_LEN = 1_000_000  # the server refuses what is too long


class _Meta(msgspec.Struct):
    n_ctx: Count | None = None
    n_ctx_train: Count | None = None
    n_params: Count | None = None
    size: Count | None = None


class _Model(msgspec.Struct):
    id: str
    meta: _Meta | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class LlamaServerEngine:
    """Near engine of a llama-server on this machine, by its OpenAI-compatible API."""

    def __init__(self, address: str) -> None:
        """Ask the server for its model. Raises EngineStopped where nothing answers."""
        base = address.rstrip("/")
        self._url = base if base.endswith("/v1") else f"{base}/v1"
        self._card = _card_at(self._url)
        self._upstream = Upstream(self._url, is_near=True)

    def card(self) -> ModelCard:
        """Return what the server says it runs."""
        return self._card

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the server's answer; each piece has the confidence of its tokens.

        Raises Unsupported for what such a server has no word for, EngineStopped where it is gone.
        """
        try:
            async with contextlib.aclosing(self._upstream.generate(request)) as items:
                async for item in items:
                    yield item
        except LinkError as error:  # of a near engine: nothing here is about a cloud
            raise EngineStopped(f"edge.server: {error}") from None

    async def sees(self) -> bool:
        """Whether the server was started with a projector (--mmproj). See Seeing."""
        try:
            return await self._upstream.sees()
        except LinkError as error:
            raise EngineStopped(f"edge.server: {error}") from None

    async def aclose(self) -> None:
        """Close the connections; the server goes on."""
        await self._upstream.aclose()


def _card_at(url: str) -> ModelCard:
    try:
        import httpx
    except ModuleNotFoundError:
        raise MissingExtra("httpx", "upstream") from None
    try:
        model = msgspec.json.decode(_read(f"{url}/models"), type=_Models).data[0]
    except (httpx.HTTPError, OSError, ValueError, IndexError, RecursionError) as error:
        raise EngineStopped(
            f"edge.server {url} does not answer as a llama-server does ({cause(error)}); start "
            "it, or take the setting out with `nearfar config unset edge.server`"
        ) from None
    meta = model.meta or _Meta()
    card = ModelCard(
        name=model.id.rpartition("/")[2].removesuffix(".gguf"),
        architecture="unknown",
        runtime="llama-server",
        num_parameters=meta.n_params or 0,
        quantization="unknown",
        size_bytes=meta.size or 0,
        max_model_len=meta.n_ctx or meta.n_ctx_train or _UNKNOWN_LEN,
        chat=True,
    )
    return card.shortened()


def _read(url: str) -> bytes:
    """Return what the server says, within bounds of size and time. Raises httpx.HTTPError, OSError.

    No proxy of the environment stands between, and nothing leads elsewhere: it is this machine.
    """
    import httpx

    until_s, read = time.monotonic() + _TIMEOUT_S, bytearray()
    with (
        httpx.Client(trust_env=False, timeout=_TIMEOUT_S, headers=PLAIN) as client,
        client.stream("GET", url) as answer,
    ):
        if answer.status_code != 200:
            raise OSError(f"HTTP {answer.status_code}")
        for piece in answer.iter_raw():
            read += piece
            if len(read) > MAX_BODY_BYTES or time.monotonic() > until_s:
                raise OSError("its list of models has no end")
    return bytes(read)
