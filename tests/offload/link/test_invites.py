from __future__ import annotations

import time
from pathlib import Path

import pytest

from offload.errors import CloudFailed, CloudUnreachable, KeyRefused, SettingsError
from offload.link.client import CloudLink
from offload.link.invites import InviteList, Pending, accept_invite, make_invite, read_invite
from offload.link.keys import DeviceList, KeyPair
from tests.offload.links import answer, ask, nowhere, serving, text_of
from tests.offload.scripted import ScriptedEngine


class Household:
    """What a cloud keeps, and a new device's keys."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.devices = KeyPair.new(), DeviceList(folder / "devices.json")
        self.invites = InviteList(folder / "invites.json")
        self.options = {"keys": self.keys, "devices": self.devices, "invites": self.invites}

    def invite(self, endpoint: str, name: str = "jetson", lifetime_s: float = 60) -> str:
        return make_invite(
            endpoint, self.keys.public, self.invites, name=name, lifetime_s=lifetime_s
        )


@pytest.fixture
def house(tmp_path: Path) -> Household:
    return Household(tmp_path)


async def test_one_line_lets_a_device_in(house: Household) -> None:
    device_keys = KeyPair.new()
    async with serving(ScriptedEngine(), **house.options) as server:
        invite = await accept_invite(house.invite(server.endpoint), device_keys)
        link = CloudLink(invite.endpoint, server_key=invite.server_key, device_keys=device_keys)
        assert text_of(await answer(link, ask())) == "one two three"
        await link.aclose()
    found = house.devices.find(device_keys.public)
    assert found is not None and found.name == "jetson"


async def test_an_invite_works_once(house: Household) -> None:
    async with serving(ScriptedEngine(), **house.options) as server:
        line = house.invite(server.endpoint)
        await accept_invite(line, KeyPair.new())
        with pytest.raises(KeyRefused, match=r"was used, has expired.*ask its operator"):
            await accept_invite(line, KeyPair.new())
    assert len(house.devices.all()) == 1


async def test_an_invite_that_has_expired_is_refused(house: Household) -> None:
    async with serving(ScriptedEngine(), **house.options) as server:
        line = house.invite(server.endpoint, lifetime_s=1)
        house.invites.clock = lambda: time.time() + 2
        with pytest.raises(KeyRefused, match="expired"):
            await accept_invite(line, KeyPair.new())
    assert house.devices.all() == []


async def test_an_invite_opens_nothing_but_the_door(house: Household) -> None:
    engine = ScriptedEngine()
    async with serving(engine, **house.options) as server:
        invite = read_invite(house.invite(server.endpoint))
        guest = CloudLink(
            server.endpoint,
            server_key=invite.server_key,
            device_keys=KeyPair(public=invite.public, secret=invite.secret),
        )
        with pytest.raises(KeyRefused, match="nearfar link join"):
            await answer(guest, ask())
        await guest.aclose()
    assert engine.requests == []


async def test_a_name_that_is_taken_leaves_the_invite_good(house: Household) -> None:
    house.devices.add("jetson", KeyPair.new().public)
    async with serving(ScriptedEngine(), **house.options) as server:
        line = house.invite(server.endpoint)
        with pytest.raises(CloudFailed, match="taken"):
            await accept_invite(line, KeyPair.new())
        house.devices.remove("jetson")
        await accept_invite(line, KeyPair.new())


async def test_an_invite_to_nowhere_is_unreachable(house: Household) -> None:
    with nowhere() as endpoint, pytest.raises(CloudUnreachable, match="nothing answers"):
        await accept_invite(house.invite(endpoint), KeyPair.new(), timeout_s=0.2)


def test_a_line_may_be_broken_by_the_mail_but_not_damaged(house: Household) -> None:
    line = house.invite("tcp://10.0.0.1:7070")
    assert len(line) < 300
    assert read_invite(line[:50] + "\n  " + line[50:]) == read_invite(line)
    for bad in ("", "hello", line[:-9], line.replace("invite-1", "invite-9"), line[:60] + "€"):
        with pytest.raises(SettingsError, match="copy the whole line"):
            read_invite(bad)


def test_the_secret_is_in_the_line_and_nowhere_else(house: Household, tmp_path: Path) -> None:
    invite = read_invite(house.invite("tcp://10.0.0.1:7070"))
    assert invite.secret not in repr(invite)
    assert invite.secret not in (tmp_path / "invites.json").read_text()
    assert (tmp_path / "invites.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("endpoint", ["tcp://*:7070", "tcp://0.0.0.0:7070", "tcp://[::]:7070"])
def test_an_invite_names_an_address_that_can_be_dialled(house: Household, endpoint: str) -> None:
    with pytest.raises(SettingsError, match="host's own address"):
        house.invite(endpoint)


def test_what_has_expired_is_swept_out(tmp_path: Path) -> None:
    now = [100.0]
    invites = InviteList(tmp_path / "invites.json", clock=lambda: now[0])
    for number in range(3):
        invites.add(Pending(public_key=f"k{number}", name="x", expires_s=101 + number))
    now[0] = 102.5
    assert invites.find("k1") is None and invites.take("k1") is None
    assert invites.find("k2") is not None
    assert "k0" not in (tmp_path / "invites.json").read_text()
    assert invites.take("k2") is not None and invites.take("k2") is None
