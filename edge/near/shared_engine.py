"""Shared engine: the near model that `nearfar up` holds in memory, asked by another command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from backbone.errors import cause
from edge.models.local_models import find_model
from edge.models.model_card import card_of
from offload.config.places import Places
from offload.config.running_service import (
    FORGET_PATH,
    GENERATE_PATH,
    NearForget,
    NearLine,
    NearQuestion,
    Service,
    error_of,
)
from offload.config.settings import EdgeSettings
from offload.engine import AnswerStream
from offload.errors import EngineStopped
from offload.messages import ModelCard, Request
from offload.reading import listener

_MAX_LINE_BYTES = 64 << 20  # a prompt's log-probabilities come in one line


class SharedEngine:
    """Engine of one near model in a service of the same person on this machine."""

    def __init__(self, service: Service, edge: EdgeSettings, here: Places) -> None:
        """Look at the model's file. Raises CheckpointError where there is none to run."""
        self._path = find_model(edge.model, here.models)
        self._service = service
        self._edge = replace(edge, model=str(self._path.absolute()))
        self._card: ModelCard | None = None

    def card(self) -> ModelCard:
        """Return what the model is, as its file says until it has answered."""
        return self._card or card_of(self._path)

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the service's answer; closing the stream ends it there, too."""
        progress = listener()
        body = msgspec.json.encode(NearQuestion(edge=self._edge, request=request))
        async with self._asked(GENERATE_PATH, body) as reader:
            async for line in _lines(reader):
                if line.error:
                    raise error_of(line)
                self._card = line.card or self._card
                if line.read is not None and progress is not None:
                    progress(*line.read)
                item = line.delta or line.finish
                if item is not None:
                    yield item
                if line.finish is not None:
                    return
        raise EngineStopped("`nearfar up` ended in the middle of the answer; ask again")

    async def forget(self, session: str) -> None:
        """Forget what the service keeps of a conversation. See SessionKeeping."""
        body = msgspec.json.encode(NearForget(edge=self._edge, session=session))
        async with self._asked(FORGET_PATH, body) as reader:
            async for line in _lines(reader):
                if line.error:
                    raise error_of(line)

    async def aclose(self) -> None:
        """Close nothing: the model is the service's."""

    @contextlib.asynccontextmanager
    async def _asked(self, path: str, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
        """Send a request; of HTTP/1.0, whose answer is what comes until the connection ends."""
        host, port = self._service.address
        try:
            reader, writer = await asyncio.open_connection(host, port, limit=_MAX_LINE_BYTES)
        except OSError as error:
            raise EngineStopped(f"`nearfar up` is gone ({cause(error)}); ask again") from None
        try:
            writer.write(_head(path, f"{host}:{port}", self._service.token, len(body)) + body)
            await writer.drain()
            status = await _status(reader)
            if status != 200:
                raise EngineStopped(
                    f"`nearfar up` refuses to answer (HTTP {status}); start it again, or set "
                    "edge.use_service to false"
                )
            yield reader
        except OSError as error:
            raise EngineStopped(f"`nearfar up` is gone ({cause(error)}); ask again") from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _head(path: str, host: str, token: str, length: int) -> bytes:
    lines = (
        f"POST {path} HTTP/1.0",
        f"Host: {host}",
        f"Authorization: Bearer {token}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _status(reader: asyncio.StreamReader) -> int:
    words = (await reader.readline()).split()
    while (await reader.readline()).strip():  # its headers
        pass
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[NearLine]:
    while line := await reader.readline():
        try:
            yield msgspec.json.decode(line, type=NearLine)
        except msgspec.MsgspecError:
            raise EngineStopped(
                "`nearfar up` is of another version; stop it and start it again"
            ) from None
