"""An upstream server cannot fill the memory, and its lines end where events end."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterable

import httpx
import pytest

from offload.errors import CloudFailed, RequestError
from offload.upstream import listening
from offload.upstream.client import Upstream
from tests.offload.upstreams import CHAT, URL, piece, read, says, sse, upstream


class Endless(httpx.AsyncByteStream):
    """Bytes for ever, and a count of how many were taken."""

    def __init__(self, piece: bytes) -> None:
        self.piece, self.taken = piece, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.taken += len(self.piece)
            yield self.piece


async def test_an_endless_list_of_models_is_given_up() -> None:
    endless = Endless(b'{"data": [' + b'{"id": "m"},' * 10_000)
    engine = Upstream(
        URL, transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=endless))
    )
    with pytest.raises(CloudFailed, match="no list of models"):
        await engine.connect()
    assert endless.taken < 3 * listening.MAX_BODY_BYTES


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_endless_error_is_cut(status: int) -> None:
    endless = Endless(b"x" * 10_000)
    engine = upstream(lambda _: httpx.Response(status, stream=endless))
    with pytest.raises((CloudFailed, RequestError)):
        await read(engine)
    assert endless.taken < 3 * listening.MAX_ERROR_BYTES


@pytest.mark.parametrize(
    "sent", [b"data: " + b"x" * 10_000, b"x" * 100_000, b": still here\n" * 999]
)
async def test_an_endless_stream_is_given_up(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MAX_STREAM_BYTES", 8 << 20)
    endless = Endless(sent)
    with pytest.raises(CloudFailed, match="without an end"):
        await read(upstream(lambda _: httpx.Response(200, stream=endless)))
    assert endless.taken < 9 << 20


async def test_a_compressed_answer_is_refused_before_it_is_opened() -> None:
    bomb = gzip.compress(b"x" * 50_000_000)

    def reply(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, stream=_Pieces([bomb]), headers={"content-encoding": "gzip"})

    with pytest.raises(CloudFailed, match="compresses its answers"):
        await read(upstream(reply))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for each in self.pieces:
            yield each


ODD = "a\u2028b\u2029c\u0085d\x0be\x1cf"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
async def test_lines_end_at_cr_and_lf_alone_wherever_the_network_cuts(
    end: bytes, size: int
) -> None:
    events = [json.dumps(piece(ODD), ensure_ascii=False), piece("", "stop"), "[DONE]"]
    sent = b"\xef\xbb\xbf" + sse(*events).replace(b"\n", end)
    cut = [sent[at : at + size] for at in range(0, len(sent), size)]
    text, _ = await read(upstream(lambda _: httpx.Response(200, stream=_Pieces(cut))))
    # The two characters below a blank are escaped in JSON; the others are not.
    assert text == ODD


@pytest.mark.parametrize("event", ["[" * 200_000, "\udcff"])
async def test_an_event_that_cannot_be_read_is_one_line(event: str) -> None:
    sent = f"data: {event}\n\n".encode("utf-8", "surrogateescape")
    with pytest.raises(CloudFailed, match="no event of an OpenAI server"):
        await read(upstream(lambda _: httpx.Response(200, content=sent)))


async def test_a_server_cannot_give_tokens_back() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": -5, "completion_tokens": 2**62}}
    _, finish = await read(upstream(says(piece("a"), piece("", "stop"), usage, "[DONE]")), CHAT)
    assert finish.usage.prompt_tokens == 0
    assert finish.usage.completion_tokens == 2 * CHAT.sampling.max_tokens
