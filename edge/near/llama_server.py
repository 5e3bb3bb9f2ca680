"""llama-server as the near engine: a llama.cpp that runs already, where none can be compiled.

Its log-probabilities of the 20 likeliest tokens feed the policy. What it is not asked for: its own
KV cache, drafts, adapters and sessions are set where it was started; hidden states, token ids and
embeddings stay with it.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request

from backbone.errors import cause
from offload.engine import AnswerStream
from offload.errors import EngineStopped, LinkError
from offload.messages import ModelCard, Request
from offload.upstream.client import Upstream

_TIMEOUT_S = 5.0
_UNKNOWN_LEN = 1_000_000  # the server refuses what is too long


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

    async def aclose(self) -> None:
        """Close the connections; the server goes on."""
        await self._upstream.aclose()


def _card_at(url: str) -> ModelCard:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    try:
        with contextlib.closing(opener.open(f"{url}/models", timeout=_TIMEOUT_S)) as answer:
            model = json.load(answer)["data"][0]
            name, meta = str(model["id"]), model.get("meta") or {}
            length = int(meta.get("n_ctx") or meta.get("n_ctx_train") or _UNKNOWN_LEN)
            num_parameters = int(meta.get("n_params") or 0)
            size_bytes = int(meta.get("size") or 0)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineStopped(
            f"edge.server {url} does not answer as a llama-server does ({cause(error)}); start "
            "it, or take the setting out with `nearfar config unset edge.server`"
        ) from None
    return ModelCard(
        name=name.rpartition("/")[2].removesuffix(".gguf")[:200],
        architecture="unknown",
        runtime="llama-server",
        num_parameters=num_parameters,
        quantization="unknown",
        size_bytes=size_bytes,
        max_model_len=length,
        chat=True,
    )
