"""Cloud manager of the page: the far models that are set up, joined, added, tested and dropped.

It is another face of `nearfar link`: the same functions, the same settings and keys.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge.assistant.engine_settings import AssistantEngine
from edge.assistant.http_bodies import as_json, read_body
from edge.assistant.running_answers import RunningAnswers
from offload.config.places import Places
from offload.config.settings_reading import load
from offload.errors import RequestError
from offload.hybrid.clouds import CloudTest, add_address, drop, join, reach_all
from offload.link.local_keys import admitted, device_keys
from offload.messages import Privacy

_NUM_PINGS = 5


class PairedDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that this machine, as a cloud, lets in."""

    name: str
    public_key: str


class CloudList(msgspec.Struct, frozen=True, kw_only=True):
    """The far models that are set up, and who is paired with this machine."""

    clouds: list[str]  # addresses
    model: str  # of a server over HTTP, where one is chosen
    device_key: str  # by which a cloud knows this device
    devices: list[PairedDevice]


class Joining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An invite line, or an address with what belongs to it."""

    line: str
    key: str = ""
    model: str = ""
    api_key: str = ""


class CloudAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The address of a cloud."""

    url: str


class CloudManager:
    """Cloud manager: the page's routes under /api/clouds."""

    def __init__(self, assistant: AssistantEngine, answers: RunningAnswers, here: Places) -> None:
        self._assistant, self._answers, self._here = assistant, answers, here

    def routes(self) -> list[Route]:
        """Return the routes of the manager."""
        return [
            Route("/api/clouds", self.listed),
            Route("/api/clouds", self.add, methods=["POST"]),
            Route("/api/clouds/drop", self.drop, methods=["POST"]),
            Route("/api/clouds/test", self.test, methods=["POST"]),
        ]

    async def listed(self, _: Request) -> Response:
        return as_json(self._list())

    def _list(self) -> CloudList:
        far = load(self._here.config_file).cloud
        devices = admitted(self._here.keys).all()
        return CloudList(
            clouds=[url for url, _ in far.clouds],
            model=far.model,
            device_key=device_keys(self._here.keys).public,
            devices=[PairedDevice(name=each.name, public_key=each.public_key) for each in devices],
        )

    async def add(self, request: Request) -> Response:
        """Use an invite, or set up the cloud at an address."""
        said = await read_body(request, Joining)
        self._require_open()
        async with self._assistant.lock:
            self._require_idle()
            line = said.line.strip()
            if line.startswith("nearfar-invite-"):
                await join(line, self._here, add=True)
            else:
                add_address(line, self._here, key=said.key, model=said.model, api_key=said.api_key)
            await self._assistant.reload_clouds()
        return as_json(self._list())

    async def drop(self, request: Request) -> Response:
        """Take a cloud out of the settings; its key for this device stays there."""
        url = (await read_body(request, CloudAddress)).url
        async with self._assistant.lock:
            self._require_idle()
            drop(url, self._here)
            await self._assistant.reload_clouds()
        return as_json(self._list())

    async def test(self, _: Request) -> Response:
        """Reach every cloud that is set up; no text is sent."""
        self._require_open()
        far = load(self._here.config_file).cloud
        found: list[CloudTest] = await reach_all(far, self._here, num_pings=_NUM_PINGS)
        return as_json(found)

    def _require_idle(self) -> None:
        if self._answers.any_running or self._assistant.current.num_running:
            raise RequestError("an answer is being written; stop it first")

    def _require_open(self) -> None:
        if self._assistant.is_offline:
            raise RequestError("nearfar runs offline; start it without --offline for a far model")
        if self._assistant.privacy is Privacy.LOCAL_ONLY:
            raise RequestError("the switch Private is on, and the link closed; turn it off first")
