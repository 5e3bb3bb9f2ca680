"""The engine over Ray Serve's handle, without Ray: a stand-in whose replicas are the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloud.endpoint_options import EndpointOptions
from cloud.ray_engine import RayEngine
from offload.asker import asked_by, asker
from offload.collect import collect
from offload.errors import CloudFailed, CloudUnreachable, RequestError, SettingsError
from offload.messages import Delta, Request
from offload.priority import prioritized, priority
from tests.cloud.fleet.test_ray_replica import replica_of
from tests.offload.hybrid.pairs import ask
from tests.waiting import until


class _Stream:
    """What a streamed call of Ray's gives: messages, and a way to call it off."""

    def __init__(self, messages: AsyncIterator[bytes]) -> None:
        self._messages, self.cancelled = messages, False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._messages

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A DeploymentHandle of one replica."""

    def __init__(self, replica: Any) -> None:
        self.replica, self.streams = replica, list[_Stream]()

    def options(self, *, stream: bool) -> Handle:
        assert stream, "an answer is streamed"
        return self

    @property
    def describe(self) -> Any:
        return _Method(self.replica.describe)

    @property
    def answer(self) -> Any:
        def remote(message: bytes) -> _Stream:
            self.streams.append(_Stream(self.replica.answer(message)))
            return self.streams[-1]

        return _Method(remote)


class _Method:
    def __init__(self, remote: Any) -> None:
        self.remote = remote


async def test_an_answer_comes_whole_for_whom_it_is_asked() -> None:
    seen: list[tuple[str, str]] = []

    def script(request: Request) -> list[str]:
        seen.append((asker(), priority()))
        return ["one", " two"]

    replica = replica_of()
    replica.engine._script = script
    engine = RayEngine("nearfar", handle=Handle(replica))
    assert (await engine.connect()).name == engine.card().name == "scripted"
    with asked_by("alice"), prioritized("batch"):
        answer = await collect(engine.generate(ask()))
    assert answer.text == "one two" and answer.finish.reason == "stop"
    assert seen == [("alice", "batch")]


async def test_who_leaves_calls_the_work_off() -> None:
    replica = replica_of(deltas=["a"] * 1000, pause_s=0.001)
    handle = Handle(replica)
    stream = RayEngine("nearfar", handle=handle).generate(ask())
    assert isinstance(await anext(stream), Delta)
    await stream.aclose()
    assert handle.streams[0].cancelled
    await handle.streams[0]._messages.aclose()  # type: ignore[attr-defined]  # as Ray then does
    await until(lambda: not replica.engine.running)


async def test_what_goes_wrong_is_told_as_over_the_link() -> None:
    replica = replica_of()
    engine = RayEngine("nearfar", handle=Handle(replica))
    replica.engine.error = RequestError("that makes no sense")
    with pytest.raises(RequestError, match="makes no sense"):
        await collect(engine.generate(ask()))

    async def lost(message: bytes) -> AsyncIterator[bytes]:
        raise OSError("the actor died")
        yield message

    replica.answer = lost
    with pytest.raises(CloudFailed, match=r"was lost by Ray \(OSError\)"):
        await collect(engine.generate(ask()))

    def gone() -> None:
        raise OSError("no such actor")

    replica.describe = gone
    with pytest.raises(CloudUnreachable, match="does not answer"):
        await RayEngine("nearfar", handle=Handle(replica)).connect()


def test_an_application_of_ray_has_engines_of_its_own() -> None:
    with pytest.raises(SettingsError, match="leave out what says how one runs here"):
        EndpointOptions(ray_app="nearfar", model="m")
