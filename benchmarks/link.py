"""What the link costs on loopback, beside a bare pyzmq DEALER and ROUTER in the same run.

    python -m benchmarks.link [--write]

Three figures: the round trip of 1 KiB (ours a whole request, encrypted, run by an engine and
finished; theirs a blocking echo without keys, the least that ZeroMQ can do), many token streams at
once through one server, and the bytes of each token:
those of the messages, and all that cross TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import zmq

from offload.engine import AnswerStream
from offload.link.client import CloudLink
from offload.link.keys import DeviceList, KeyPair
from offload.link.server import LinkServer
from offload.messages import Confidence, Delta, Finish, ModelCard, Request, Usage
from tests.offload.chaos import Chaos

Figures = dict[str, float]

_ROUNDS = 5
_WARM_UP = 200
_PAYLOAD = "x" * 1000  # with its head and the msgpack around it, a message of 1 KiB


class Echo:
    """An engine that answers with one piece of the prompt's size, or with many single tokens."""

    def __init__(self, num_tokens: int = 0, token_s: float = 0.0) -> None:
        self._num_tokens, self._token_s = num_tokens, token_s

    def card(self) -> ModelCard:
        return ModelCard(
            name="echo",
            architecture="none",
            runtime="none",
            num_parameters=0,
            quantization="none",
            size_bytes=0,
            max_model_len=1,
        )

    async def generate(self, request: Request) -> AnswerStream:
        confidence = (Confidence(-0.5, 0.5, 1.0),)
        for index in range(self._num_tokens):
            await asyncio.sleep(self._token_s)
            yield Delta(text=" word", index=index, token_ids=(1000,), confidence=confidence)
        yield Finish(reason="stop", usage=Usage(completion_tokens=self._num_tokens))

    async def aclose(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="What the link costs on loopback.")
    parser.add_argument("--trips", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="write link.json beside this file")
    options = parser.parse_args()
    bare_s: list[float] = []
    ours_s: list[float] = []
    for _ in range(_ROUNDS):  # in turns, so that what else the machine does falls on both
        bare_s += _bare_round_trips(options.trips // _ROUNDS)
        ours_s += asyncio.run(_our_round_trips(options.trips // _ROUNDS))
    result = {
        "round_trip_1KiB": {
            "times_bare_p50": round(statistics.median(ours_s) / statistics.median(bare_s), 1),
            "over_bare_p50_ms": _ms(statistics.median(ours_s) - statistics.median(bare_s)),
            "bare_p50_ms": _ms(statistics.median(bare_s)),
            "link_curve_p50_ms": _ms(statistics.median(ours_s)),
            "bare_p99_ms": _ms(_p99(bare_s)),
            "link_curve_p99_ms": _ms(_p99(ours_s)),
        },
        "streams": asyncio.run(_streams(options.streams)),
        "fast_stream": asyncio.run(_fast_stream()),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }
    print(json.dumps(result, indent=2))
    if options.write:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


def _bare_round_trips(num_trips: int) -> list[float]:
    # A context, and so an I/O thread, for each side: as in ours, and as between two processes.
    contexts: list[zmq.Context[zmq.Socket[bytes]]] = [zmq.Context(), zmq.Context()]
    router, dealer = contexts[0].socket(zmq.ROUTER), contexts[1].socket(zmq.DEALER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def echo() -> None:
        for _ in range(num_trips + _WARM_UP):
            router.send_multipart(router.recv_multipart())

    thread = threading.Thread(target=echo)
    thread.start()
    dealer.connect(f"tcp://127.0.0.1:{port}")
    trips = []
    for _ in range(num_trips + _WARM_UP):
        began = time.perf_counter()
        dealer.send(_PAYLOAD.encode())
        dealer.recv()
        trips.append(time.perf_counter() - began)
    thread.join()
    for context in contexts:
        context.destroy(linger=0)
    return trips[_WARM_UP:]


async def _our_round_trips(num_trips: int) -> list[float]:
    """A whole request: encoded, encrypted, decoded, run by an engine and finished."""
    async with _linked(Echo()) as link:
        trips = []
        for number in range(num_trips + _WARM_UP):
            request = Request(id=str(number), prompt=_PAYLOAD)
            began = time.perf_counter()
            async for _ in link.generate(request):
                pass
            trips.append(time.perf_counter() - began)
        return trips[_WARM_UP:]


async def _streams(num_streams: int, num_tokens: int = 100) -> Figures:
    async with _linked(Echo(num_tokens, token_s=0.02)) as link:

        async def read(number: int) -> tuple[int, int]:
            count = received = 0
            async for item in link.generate(Request(id=str(number), prompt="go")):
                if isinstance(item, Delta):
                    count += len(item.token_ids)
                else:
                    received = item.usage.bytes_received
            return count, received

        began = time.perf_counter()
        read_all = await asyncio.gather(*(read(number) for number in range(num_streams)))
        took_s = time.perf_counter() - began
    assert all(count == num_tokens for count, _ in read_all), "a stream is not whole"
    total = num_streams * num_tokens
    return {
        "streams": num_streams,
        "tokens_per_s": round(total / took_s),
        "bytes_per_token": round(sum(received for _, received in read_all) / total, 1),
    }


async def _fast_stream(tokens_per_s: float = 400.0, num_tokens: int = 2000) -> Figures:
    """One stream as fast as a small model writes, all bytes counted that cross TCP."""
    engine = Echo(num_tokens, token_s=1 / tokens_per_s)
    async with _serving(engine) as (server, keys), Chaos(server.endpoint) as proxy:
        link = CloudLink(proxy.endpoint, server_key=keys[0].public, device_keys=keys[1])
        async with contextlib.aclosing(link):
            items = [item async for item in link.generate(Request(prompt="go"))]
            crossed = proxy.bytes_forwarded
    finish = items[-1]
    assert isinstance(finish, Finish), "an answer ends with a Finish"
    return {
        "tokens_per_s": tokens_per_s,
        "bytes_per_token": round(finish.usage.bytes_received / num_tokens, 1),
        "bytes_per_token_on_tcp": round(crossed / num_tokens, 1),  # encrypted, both ways
    }


@contextlib.asynccontextmanager
async def _serving(engine: Echo) -> AsyncIterator[tuple[LinkServer, tuple[KeyPair, KeyPair]]]:
    """Yield a server, and its keys and those of a device that it knows."""
    server_keys, device_keys, devices = KeyPair.new(), KeyPair.new(), DeviceList()
    devices.add("bench", device_keys.public)
    server = LinkServer(engine, keys=server_keys, devices=devices)
    await server.start()
    try:
        yield server, (server_keys, device_keys)
    finally:
        await server.aclose()


@contextlib.asynccontextmanager
async def _linked(engine: Echo) -> AsyncIterator[CloudLink]:
    async with _serving(engine) as (server, keys):
        link = CloudLink(server.endpoint, server_key=keys[0].public, device_keys=keys[1])
        async with contextlib.aclosing(link):
            await link.connect()
            yield link


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 4)


if __name__ == "__main__":
    main()
