"""An engine over Ray Serve: the replicas of cloud/ray_app.py, asked by their handle from a front.

Ray moves the link's own messages, so that a front with device keys, quotas and batches may stand
before engines that Ray places and scales on any of its machines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from backbone.errors import MissingExtra
from offload.answer_bounds import AnswerBounds
from offload.asker import asker
from offload.engine import AnswerStream
from offload.errors import CloudFailed, CloudUnreachable
from offload.link import wire
from offload.link.failures import to_error
from offload.link.message_bodies import AnyBody, Deltas, End, Failure
from offload.messages import ForwardedRequest, ModelCard, Request
from offload.priority import priority


class RayEngine:
    """An engine of a running Ray Serve application; `connect` finds it."""

    def __init__(self, app: str, *, handle: Any = None) -> None:
        """`app` is the application's name; `handle`, Ray's DeploymentHandle, is looked up by it."""
        self._app, self._handle = app, handle
        self._card: ModelCard | None = None

    async def connect(self) -> ModelCard:
        """Find the application, and return its model's card. Raises CloudUnreachable."""
        if self._card is None:
            self._handle = self._handle or _handle_of(self._app)
            try:
                told = await self._handle.describe.remote()
                self._card = msgspec.msgpack.decode(told, type=ModelCard).shortened()
            except Exception as error:  # Ray's are of many kinds
                raise CloudUnreachable(
                    f"the application {self._app!r} of Ray does not answer "
                    f"({type(error).__name__}); look at `serve status`"
                ) from None
        return self._card

    def card(self) -> ModelCard:
        """Return the model's card. Raises CloudUnreachable before `connect`."""
        if self._card is None:
            raise CloudUnreachable(
                f"the application {self._app!r} of Ray was not asked yet; connect first"
            )
        return self._card

    async def generate(self, request: Request) -> AnswerStream:
        """Stream a replica's answer; see offload.engine.Engine. Raises LinkError."""
        await self.connect()
        beside = {"asker": asker(), "priority": priority()}
        forwarded = ForwardedRequest(**msgspec.structs.asdict(request) | beside)
        answering = self._handle.options(stream=True).answer
        messages = answering.remote(wire.encode(forwarded, request.id))
        bounds = AnswerBounds(request)
        try:
            async for body in _bodies(messages):
                if isinstance(body, Failure):
                    raise to_error(body)
                if isinstance(body, End):
                    yield bounds.end(body.finish)
                    return
                if isinstance(body, Deltas):
                    for piece in body.items:
                        yield bounds.take(wire.unpack_delta(piece))
        finally:
            messages.cancel()
        raise CloudFailed("the replica ended its answer without saying so; ask again")

    async def aclose(self) -> None:
        """Leave the application as it is: it is Ray's."""


async def _bodies(messages: Any) -> AsyncIterator[AnyBody]:
    """Yield what a replica says. Raises CloudFailed where Ray lost it."""
    try:
        async for message in messages:
            yield wire.open_body(wire.open_envelope(message))
    except Exception as error:
        raise CloudFailed(
            f"the replica was lost by Ray ({type(error).__name__}); ask again"
        ) from None


def _handle_of(app: str) -> Any:
    try:
        from ray import serve
    except ModuleNotFoundError:
        raise MissingExtra("ray", "ray") from None
    try:
        return serve.get_app_handle(app)
    except Exception as error:
        raise CloudUnreachable(
            f"there is no application {app!r} of Ray here ({type(error).__name__}); start it with "
            "`serve run cloud.ray_app:build_app`"
        ) from None
