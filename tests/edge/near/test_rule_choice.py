"""Which rule a model gets: its own policy, or none at all where that cannot be read."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from pathlib import Path

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.near.rule_choice import content_of, policy_of, rule_for
from offload.config.places import Places
from offload.config.settings import PolicySettings, Settings
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Finish, Message, Request
from offload.pair import EDGE_MODEL, EDGE_POLICY
from offload.policy.serving.calibrated import CalibratedRule
from offload.policy.serving.first_day import first_day
from offload.policy.serving.policy_file import prior_path
from offload.policy.serving.rule import ThresholdRule
from tests.offload.scripted import ScriptedEngine


@pytest.fixture
def here(tmp_path: Path) -> Places:
    return Places(config=tmp_path, data=tmp_path, cache=tmp_path)


def _own(here: Places, model: Path) -> Path:
    path = here.policies / f"{content_of(model, Settings())[:16]}-auto-some-cloud.json"
    path.parent.mkdir(exist_ok=True)
    return path


def test_the_shipped_model_has_its_shipped_policy(here: Places) -> None:
    assert policy_of(EDGE_MODEL, Settings(), here) == EDGE_POLICY
    assert isinstance(rule_for(EDGE_MODEL, Settings(), here), CalibratedRule)


def test_a_threshold_set_by_hand_wins(here: Places) -> None:
    settings = Settings(policy=PolicySettings(min_logprob=-2.0))
    assert rule_for(EDGE_MODEL, settings, here) == ThresholdRule(min_logprob=-2.0)


def test_a_model_without_a_policy_gets_the_rule_of_the_first_day(
    here: Places, tmp_path: Path
) -> None:
    model = tmp_path / "other.gguf"
    model.write_bytes(b"GGUF other")
    assert rule_for(model, Settings(), here) is first_day()


def test_a_damaged_policy_keeps_everything_near_and_says_so(
    here: Places, caplog: pytest.LogCaptureFixture
) -> None:
    _own(here, EDGE_MODEL).write_text("{")
    assert rule_for(EDGE_MODEL, Settings(), here) is None
    assert "everything is answered near" in caplog.text and "calibrate again" in caplog.text


def test_a_policy_of_another_model_keeps_everything_near_and_says_so(
    here: Places, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "other.gguf"
    model.write_bytes(b"GGUF other")
    path = _own(here, model)
    shutil.copyfile(EDGE_POLICY, path)
    shutil.copyfile(prior_path(EDGE_POLICY), prior_path(path))
    assert rule_for(model, Settings(), here) is None
    assert "calibrated for another model" in caplog.text


async def test_greetings_stay_near_and_hard_sums_do_not(here: Places) -> None:
    rule = rule_for(EDGE_MODEL, Settings(), here)
    assert rule is not None
    edge = LlamaEngine(EDGE_MODEL, options=LlamaOptions(num_threads=1))
    served = {}
    async with aclosing(Hybrid(edge, ScriptedEngine(), options=HybridOptions(rule=rule))) as hybrid:
        # The scripted cloud is another than the policy's, which it tells after its first answer.
        for text in ("Hello", "Thank you", "What is 3 + 4?", "What is 834 * 281?"):
            request = Request(messages=(Message(role="user", content=text),))
            async for item in hybrid.generate(request):
                if isinstance(item, Finish) and item.route is not None:
                    served[text] = item.route.served_by
    assert list(served.values()) == ["edge", "edge", "edge", "cloud"]
