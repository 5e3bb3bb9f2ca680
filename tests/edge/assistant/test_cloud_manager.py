"""The cloud manager behind the page: an invite, an address, a test, and who is paired."""

from __future__ import annotations

import pytest

from offload.config.places import places
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.link.invites import InviteList, make_invite
from offload.link.keys import DeviceList, KeyPair
from offload.link.local_keys import admitted, device_keys
from tests.edge.assistant.test_assistant import client
from tests.edge.desks import office
from tests.offload.links import serving
from tests.offload.scripted import ScriptedEngine

KEY = "k" * 40


async def test_an_invite_is_pasted_tested_and_dropped() -> None:
    server_keys, devices, invites = KeyPair.new(), DeviceList(), InviteList()
    engine = ScriptedEngine()
    async with serving(engine, keys=server_keys, devices=devices, invites=invites) as server:
        line = make_invite(server.endpoint, server_keys.public, invites, name="laptop")
        async with client(office()) as http:
            await http.patch("/api/settings", json={"private": False})
            listed = await http.post("/api/clouds", json={"line": f" {line[:40]}\n{line[40:]} "})
            assert listed.json()["clouds"] == [server.endpoint], listed.text
            assert [each.name for each in devices.all()] == ["laptop"]
            assert load(places().config_file).cloud.server_key == server_keys.public
            assert (await http.get("/api/status")).json()["has_cloud"]
            (found,) = (await http.post("/api/clouds/test", json={})).json()
            assert found["card"]["name"] == "scripted" and found["measure"]["rtt_p50_s"] > 0
            assert engine.requests == []  # no text is sent for it
            dropped = await http.post("/api/clouds/drop", json={"url": server.endpoint})
            assert dropped.json()["clouds"] == []
            assert not (await http.get("/api/status")).json()["has_cloud"]


async def test_addresses_stand_beside_each_other_and_a_server_over_http_takes_their_place() -> None:
    async with client(office()) as http:
        for port in (7070, 7071):
            said = {"line": f"tcp://gpu:{port}", "key": KEY}
            await http.post("/api/clouds", json=said)
        assert [url for url, _ in load(places().config_file).cloud.clouds] == [
            "tcp://gpu:7070",
            "tcp://gpu:7071",
        ]
        said = {"line": "http://gpu:8000/v1", "model": "big", "api_key": "secret"}
        listed = await http.post("/api/clouds", json=said)
        assert listed.json()["clouds"] == ["http://gpu:8000/v1"] and "secret" not in listed.text
        far = load(places().config_file).cloud
        assert (far.model, far.api_key, far.server_key) == ("big", "secret", "")


@pytest.mark.parametrize(
    ("line", "key"),
    [("", ""), ("gpu:7070", ""), ("tcp://gpu", KEY), ("tcp://gpu:7070", ""), ("tcp://gpu:1", "x")],
)
async def test_what_is_no_cloud_changes_nothing(line: str, key: str) -> None:
    async with client(office()) as http:
        refused = await http.post("/api/clouds", json={"line": line, "key": key})
        assert refused.status_code == 400 and refused.json()["error"]
        damaged = await http.post("/api/clouds", json={"line": "nearfar-invite-1:AAAA"})
        assert damaged.status_code == 400 and "no invite" in damaged.json()["error"]
    assert load(places().config_file).cloud.url == ""


async def test_while_private_no_cloud_is_reached() -> None:
    change_settings(places().config_file, "policy", {"privacy": "local_only"})
    async with client(office()) as http:
        added = await http.post("/api/clouds", json={"line": "tcp://gpu:7070", "key": KEY})
        tested = await http.post("/api/clouds/test", json={})
        assert "Private is on" in added.json()["error"] and tested.status_code == 400


async def test_who_is_paired_and_this_devices_own_key_are_told() -> None:
    admitted(places().keys).add("phone", KeyPair.new().public)
    async with client(office()) as http:
        told = (await http.get("/api/clouds")).json()
        assert told["device_key"] == device_keys(places().keys).public
        assert [each["name"] for each in told["devices"]] == ["phone", "this machine"]
