"""What `nearfar policy show` tells of learning in use, and that `forget` leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offload.commands.policy import policy_app
from offload.config.places import places
from offload.config.settings_sources import change_settings
from tests.offload.policy.learning.test_learner import NEAR, Learning, mixed


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path))


def say(*words: str) -> str:
    result = CliRunner().invoke(policy_app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_it_shows_how_many_pairs_of_which_models_and_when() -> None:
    assert "policy.learn is ask" in say("show") and "nothing was learnt" in say("show")
    change_settings(places().config_file, "policy", {"learn": "on"})
    await Learning(places().learning).teach(mixed(30))
    assert "policy.learn is on" in say("show") and "not fitted yet" in say("show")
    await Learning(places().learning, began=100).teach(mixed(40))
    told, document = say("show"), json.loads(say("show", "--json"))
    assert "tiny.gguf beside big: 70 pairs" in told and "fitted to 60 pairs on 1970-01-01" in told
    assert document["learned"][0]["num_pairs"] == 70 and document["learned"][0]["fitted_to"] == 60


async def test_a_file_that_cannot_be_read_is_named_with_its_remedy() -> None:
    await Learning(places().learning).teach(mixed(30))
    path = next(places().learning.glob("*.jsonl"))
    path.write_text("nothing")
    assert "is damaged" in say("show") and str(path) in say("show")


async def test_forgetting_deletes_all_of_it() -> None:
    await Learning(places().learning).teach(mixed(60))
    assert NEAR.newest(places().learning) is not None
    assert "1 pairs of models" in say("forget") and "nothing to forget" in say("forget")
    assert list(places().learning.iterdir()) == []
    assert json.loads(say("forget", "--json")) == {"forgotten": 0}
