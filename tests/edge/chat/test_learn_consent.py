"""Whether nearfar may learn is asked once, after a far answer, and the reply is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.chat.learn_consent import settle_learning
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.messages import Finish, Route

FAR = Finish(reason="stop", route=Route(served_by="cloud", reason="unsure"))
NEAR = Finish(reason="stop", route=Route(served_by="edge", reason="confident"))


class Person:
    def __init__(self, reply: str) -> None:
        self.reply, self.num_asked = reply, 0

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        assert "numbers" in question and set(choices) == {"y", "n"}
        self.num_asked += 1
        return self.reply


@pytest.mark.parametrize(("reply", "kept"), [("y", "on"), ("n", "off")])
async def test_it_is_asked_once(tmp_path: Path, reply: str, kept: str) -> None:
    config, person = tmp_path / "config.toml", Person(reply)
    await settle_learning(NEAR, config, person.choose)
    assert person.num_asked == 0, "nothing could be learnt from it"
    for _ in range(3):
        await settle_learning(FAR, config, person.choose)
    assert person.num_asked == 1 and load(config).policy.learn == kept
    assert load(config).policy.learns is (kept == "on")


async def test_where_texts_are_kept_private_it_is_neither_asked_nor_done(tmp_path: Path) -> None:
    config, person = tmp_path / "config.toml", Person("y")
    change_settings(config, "policy", {"privacy": "local_only"})
    await settle_learning(FAR, config, person.choose)
    assert person.num_asked == 0
    change_settings(config, "policy", {"learn": "on"})
    assert not load(config).policy.learns
