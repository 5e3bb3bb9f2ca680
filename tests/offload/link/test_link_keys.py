from __future__ import annotations

import socket
import struct

import pytest
import zmq

from offload.errors import (
    CloudUnreachable,
    KeyRefused,
    SettingsError,
)
from offload.link import connection, sockets
from offload.link.client import CloudLink
from offload.link.connection import Connection
from offload.link.health import HeartbeatTimes
from offload.link.keys import DeviceList, KeyPair
from offload.link.server import LinkServer
from offload.link.sockets import Address
from tests.offload.links import (
    DEADLINE_S,
    answer,
    ask,
    linked,
    nowhere,
    serving,
    text_of,
)
from tests.offload.scripted import CARD, ScriptedEngine


async def test_the_wrong_server_key_is_refused() -> None:
    device_keys, devices = KeyPair.new(), DeviceList()
    devices.add("laptop", device_keys.public)
    async with serving(ScriptedEngine(), keys=KeyPair.new(), devices=devices) as server:
        wrong = KeyPair.new().public
        link = CloudLink(server.endpoint, server_key=wrong, device_keys=device_keys)
        with pytest.raises(KeyRefused, match="not the cloud whose key this device has"):
            await link.connect()
        await link.aclose()


async def test_an_unknown_device_is_refused_and_a_known_one_is_served_meanwhile() -> None:
    async with linked(ScriptedEngine()) as (server, link):
        stranger = CloudLink(
            server.endpoint, server_key=server.public_key, device_keys=KeyPair.new()
        )
        with pytest.raises(KeyRefused, match="does not know this device's key"):
            await stranger.connect()
        await stranger.aclose()
        assert text_of(await answer(link, ask())) == "one two three"


async def test_a_device_let_in_while_the_cloud_runs_may_come() -> None:
    server_keys, device_keys, devices = KeyPair.new(), KeyPair.new(), DeviceList()
    async with serving(ScriptedEngine(), keys=server_keys, devices=devices) as server:
        link = CloudLink(server.endpoint, server_key=server_keys.public, device_keys=device_keys)
        with pytest.raises(KeyRefused):
            await link.connect()
        devices.add("laptop", device_keys.public)
        assert await link.connect() == CARD
        await link.aclose()


async def test_a_plaintext_device_is_refused_where_keys_are_wanted() -> None:
    async with linked(ScriptedEngine()) as (server, _):
        plain = CloudLink(server.endpoint)
        # The second where it hangs up each time before its greeting is read.
        with pytest.raises((KeyRefused, CloudUnreachable), match="needs keys"):
            await plain.connect()
        await plain.aclose()


async def test_a_greeting_that_wants_keys_is_a_refusal_at_once() -> None:
    mismatch = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
    event = struct.pack("=HI", int(zmq.Event.HANDSHAKE_FAILED_PROTOCOL), mismatch)
    with nowhere() as endpoint:
        opening = Connection(
            Address(endpoint=endpoint),
            device="laptop",
            session="s",
            times=HeartbeatTimes(),
            on_message=lambda envelope: None,
            on_lost=lambda error: None,
        )
        opening.receive_event([zmq.Frame(event), zmq.Frame(endpoint.encode())])
        with pytest.raises(KeyRefused, match="needs keys"):
            await opening.open(DEADLINE_S)


async def test_a_frozen_cloud_is_not_taken_for_one_of_another_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says nothing, and it is we who part, more than once."""
    for module in (sockets, connection):
        monkeypatch.setattr(module, "HANDSHAKE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = CloudLink(
            f"tcp://127.0.0.1:{listener.getsockname()[1]}",
            server_key=KeyPair.new().public,
            device_keys=KeyPair.new(),
            connect_timeout_s=2.6,
        )
        with pytest.raises(CloudUnreachable):
            await link.connect()
        await link.aclose()


async def test_keys_for_a_cloud_that_takes_none_are_refused() -> None:
    async with serving(ScriptedEngine()) as server:
        link = CloudLink(
            server.endpoint, server_key=KeyPair.new().public, device_keys=KeyPair.new()
        )
        with pytest.raises(KeyRefused, match="uses no keys"):
            await link.connect()
        await link.aclose()


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5555", "tcp://192.168.1.2:5555", "tcp://*:1"])
def test_no_keys_no_network(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="keys"):
        LinkServer(ScriptedEngine(), endpoint)
    with pytest.raises(SettingsError, match="nearfar link join"):
        CloudLink(endpoint)
