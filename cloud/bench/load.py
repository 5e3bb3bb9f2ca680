"""The load generator: sends requests as users would, and gathers each request's timings."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from backbone.errors import MissingExtra
from cloud.bench.load_options import LoadOptions
from cloud.bench.trial import RequestTrial, ask
from offload.errors import CloudUnreachable
from offload.upstream.listening import PLAIN

if TYPE_CHECKING:
    import httpx


def gaps(options: LoadOptions) -> Iterator[float]:
    """Yield the seconds between one request and the next: gamma with the shape `burstiness`."""
    draw = random.Random(options.seed)
    while True:
        if math.isinf(options.request_rate):
            yield 0.0
        else:
            scale = 1.0 / (options.request_rate * options.burstiness)
            yield draw.gammavariate(options.burstiness, scale)


async def run(
    options: LoadOptions, transport: httpx.AsyncBaseTransport | None = None
) -> list[RequestTrial]:
    """Warm up, then send every request, and return what became of each, in order.

    Raises CloudUnreachable where no warm-up is answered, and MissingExtra.
    """
    try:
        import httpx
    except ModuleNotFoundError:
        raise MissingExtra("httpx", "upstream") from None
    headers = {**PLAIN}
    if options.api_key:
        headers["authorization"] = f"Bearer {options.api_key}"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        headers=headers, limits=limits, transport=transport, trust_env=False
    ) as client:
        await _warm_up(client, options)
        return await _send_all(client, options)


async def _warm_up(client: httpx.AsyncClient, options: LoadOptions) -> None:
    for _ in range(options.num_warmups):
        trial = await _one(client, options, 0)
        if not trial.is_whole:
            if not trial.status:
                raise CloudUnreachable(
                    f"nothing answers at {options.base_url}; start the server, or mend the address"
                )
            raise CloudUnreachable(
                f"{options.base_url} refused a first request (HTTP {trial.status}); "
                "look whether it serves this model and knows the key"
            )


async def _send_all(client: httpx.AsyncClient, options: LoadOptions) -> list[RequestTrial]:
    free = asyncio.Semaphore(options.max_concurrency) if options.max_concurrency else None
    loop, waits = asyncio.get_running_loop(), gaps(options)
    due_s, asking = loop.time(), []

    async def one(number: int) -> RequestTrial:
        async with free or contextlib.nullcontext():
            return await _one(client, options, number)

    for number in range(options.num_prompts):
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        asking.append(asyncio.create_task(one(number)))
        due_s += next(waits)
    return await asyncio.gather(*asking)


async def _one(client: httpx.AsyncClient, options: LoadOptions, number: int) -> RequestTrial:
    turns = [{"role": "user", "content": options.prompt.replace("{number}", str(number))}]
    body: dict[str, Any] = {
        "model": options.model,
        "messages": turns,
        "max_tokens": options.output_len,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url = f"{options.base_url.rstrip('/')}/chat/completions"
    return await ask(client, url, body, timeout_s=options.timeout_s)
