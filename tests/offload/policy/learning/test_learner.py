"""Learning in use: pairs become numbers, numbers a policy, and what goes wrong is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from offload.config.file_lock import turn
from offload.hybrid.answer_pair import AnswerPair
from offload.messages import Confidence
from offload.policy.learning.learner import LearningInUse, NearModel, learned, open_learnt
from offload.policy.learning.pair_store import MAX_PAIRS, PairStore, StoreHead, read_store
from offload.policy.learning.refit import MIN_PAIRS, read_learnt, refit
from offload.policy.serving.first_day import FirstDayRule, first_day
from offload.policy.serving.signals import Signals

NEAR = NearModel("tiny.gguf", "a" * 32, "auto")
HEAD = StoreHead(version=1, near_model="tiny.gguf", near_hash="a" * 32, far_model="big")


def written(text: str, logprob: float) -> Signals:
    """Return an answer of four tokens, each as likely."""
    answer = Signals()
    answer.take((Confidence(logprob, min(3.0, -logprob), max(0.0, 5.0 + logprob)),) * 4, text)
    return answer


def pair(
    near: str,
    far: str = "42",
    *,
    sure: float = -0.05,
    far_sure: float = -0.01,
    far_model: str = "big",
    propensity: float = 1.0,
) -> AnswerPair:
    return AnswerPair(
        question="How many apples are 40 and 2? Answer with a number.",
        near=written(near, sure),
        flags=(),
        far=written(far, far_sure),
        far_model=far_model,
        propensity=propensity,
    )


def mixed(count: int, *, seed: int = 0) -> list[AnswerPair]:
    """Return pairs of which the surer ones agree: what a policy should learn."""
    drawn = np.random.default_rng(seed)
    same = drawn.random(count) < 0.4
    return [
        pair("42" if yes else "7", sure=-0.02 * float(drawn.gamma(1.0)) * (1.0 if yes else 60.0))
        for yes in same
    ]


class Learning:
    """A learner whose clock is the number of what it was told."""

    def __init__(self, folder: Path, near: NearModel = NEAR, *, began: int = 1) -> None:
        ticks = itertools.count(began)
        self.learner = LearningInUse(folder, near, clock=lambda: float(next(ticks)))

    async def teach(self, pairs: list[AnswerPair]) -> FirstDayRule | None:
        for each in pairs:
            self.learner.take(each)
        await self.learner.aclose()
        rule = self.learner.newer_rule()
        assert rule is None or isinstance(rule, FirstDayRule)
        return rule


def test_a_pair_is_kept_as_numbers_without_its_texts(tmp_path: Path) -> None:
    row = learned(pair("Answer: 42"), now=5.0)
    assert row is not None and row.same and row.at == 5.0 and 0.0 < row.near < row.far < 1.0
    PairStore(tmp_path / "x.jsonl", HEAD).add([row])
    kept = (tmp_path / "x.jsonl").read_text()
    assert "apples" not in kept and '"Answer' not in kept
    assert not learned(pair("41"), now=5.0).same
    assert not learned(pair("a few of them"), now=5.0).same, "a number was asked for"
    open_ended = pair("A long answer about pears", "Another one about the same fruit")
    asks_nothing = AnswerPair(**{**vars(open_ended), "question": "Tell me of fruit."})
    assert learned(asks_nothing, now=5.0) is None, "only a reader could tell"


async def test_enough_pairs_make_a_rule_that_ranks_better_than_the_shipped(tmp_path: Path) -> None:
    rule = await Learning(tmp_path).teach(mixed(MIN_PAIRS + 40))
    assert rule is not None and rule.cloud_model == "big"
    held = [learned(each, now=0.0) for each in mixed(200, seed=1)]
    features = np.array([row.features for row in held])
    same = np.array([row.same for row in held])

    def loss(scores: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0.0, scores) - same * scores))

    shipped = first_day().file.near
    assert loss(rule.file.near.many(features)) < loss(shipped.many(features)) - 0.05


async def test_the_rule_is_there_at_the_next_start_and_fits_are_repeatable(tmp_path: Path) -> None:
    rule = await Learning(tmp_path / "a").teach(mixed(MIN_PAIRS))
    again = await Learning(tmp_path / "b").teach(mixed(MIN_PAIRS))
    assert rule is not None and rule == again == open_learnt(tmp_path / "a", NEAR)
    store = read_store(next((tmp_path / "a").glob("*.jsonl")))
    found = refit(store.pairs, first_day().file, near_model="", far_model="big", now=0.0)
    assert found is not None and found.rule == rule.file, "the kept numbers give the same weights"
    assert open_learnt(tmp_path / "a", NearModel("tiny.gguf", "b" * 32, "auto")) is None


async def test_too_few_pairs_or_pairs_of_one_kind_teach_nothing(tmp_path: Path) -> None:
    assert await Learning(tmp_path / "few").teach(mixed(MIN_PAIRS - 1)) is None
    assert await Learning(tmp_path / "one").teach([pair("42")] * (2 * MIN_PAIRS)) is None
    assert len(read_store(next((tmp_path / "one").glob("*.jsonl"))).pairs) == 2 * MIN_PAIRS


def test_rare_draws_count_more_and_old_pairs_less() -> None:
    rows = [learned(each, now=float(at)) for at, each in enumerate(mixed(120))]
    assert all(rows)

    def bias(pairs: list[object]) -> float:
        found = refit(pairs, first_day().file, near_model="", far_model="", now=0.0)  # type: ignore[arg-type]
        assert found is not None
        return sum(found.rule.near(row.features) for row in rows)

    def replaced(row: object, **changes: object) -> object:
        return type(row)(**{**{n: getattr(row, n) for n in row.__struct_fields__}, **changes})

    rare = [replaced(row, propensity=0.1 if row.same else 0.9) for row in rows]
    assert bias(rare) > bias(rows)
    ordered = sorted(rows, key=lambda row: row.same)
    many = [*ordered * 8]
    oldest_same = sorted(many, key=lambda row: not row.same)
    newest_same = sorted(many, key=lambda row: row.same)
    assert bias(newest_same) > bias(oldest_same)


def test_the_store_is_bounded(tmp_path: Path) -> None:
    store = PairStore(tmp_path / "x.jsonl", HEAD)
    rows = [learned(each, now=float(at)) for at, each in enumerate(mixed(50))]
    for start in range(0, 2 * MAX_PAIRS + 500, 500):
        kept = store.add([type(rows[0])(**_fields(rows[at % 50], at + start)) for at in range(500)])
    assert len(kept) == MAX_PAIRS and kept[-1].at == start + 499
    assert len(read_store(store.path).pairs) <= 2 * MAX_PAIRS


def _fields(row: object, at: float) -> dict[str, object]:
    return {**{name: getattr(row, name) for name in row.__struct_fields__}, "at": float(at)}


async def test_a_far_model_that_is_worse_is_noticed_and_the_near_one_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worse = [pair("42", far="-1.5", sure=-0.2, far_sure=-4.0) for _ in range(MIN_PAIRS)]
    rule = await Learning(tmp_path).teach([*worse, *mixed(20)])
    assert rule is not None and "looks worse than the near one" in caplog.text
    question = worse[0].question
    far, before = rule.expect(question).far, first_day().expect(question).far
    assert far is not None and before is not None and far < before
    better = [pair("-1.5", far="42", sure=-4.0) for _ in range(MIN_PAIRS)]
    caplog.clear()
    await Learning(tmp_path / "b").teach([*better, *mixed(20)])
    assert caplog.text == ""


async def test_a_change_of_agreement_is_said_once_and_what_was_before_counts_little(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Learning(tmp_path).teach(mixed(MIN_PAIRS + 60))
    assert caplog.text == ""
    changed = [pair("7", sure=-0.02) for _ in range(40)]  # as sure as ever, and never the same
    await Learning(tmp_path, began=1000).teach(changed)
    assert caplog.text.count("one of the two has changed, or") == 1
    learnt = read_learnt(next(tmp_path.glob("*.json")))
    before = [each for each in read_store(next(tmp_path.glob("*.jsonl"))).pairs if each.at < 1000.0]
    counted = [each for each in before if each.at > learnt.change.began_at]
    assert len(counted) < len(before) // 2 and learnt.change.noticed_at > 1000.0


async def test_another_file_or_another_far_model_begins_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Learning(tmp_path).teach(mixed(MIN_PAIRS))
    await Learning(tmp_path).teach([pair("42", far_model="other")])
    assert "the far model is other now" in caplog.text and "beside big" in caplog.text
    caplog.clear()
    await Learning(tmp_path, NearModel("tiny.gguf", "b" * 32, "auto")).teach([pair("42")])
    assert "tiny.gguf is another file" in caplog.text
    assert len(list(tmp_path.glob("*.jsonl"))) == 3, "nothing was lost"


async def test_a_damaged_file_is_moved_aside_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Learning(tmp_path).teach(mixed(20))
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(b"\x00\xff not json\n")
    await Learning(tmp_path).teach([pair("42")])
    assert caplog.text.count("\n") == 1 and "it is kept as" in caplog.text
    assert next(tmp_path.glob("*.damaged-*")).read_bytes() == b"\x00\xff not json\n"
    assert len(read_store(path).pairs) == 1


async def test_a_line_that_was_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    await Learning(tmp_path).teach(mixed(20))
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-30])
    await Learning(tmp_path).teach([pair("42")])
    found = read_store(path)
    assert len(found.pairs) == 20 and found.num_broken == 1


async def test_a_newer_file_is_left_as_it_is_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Learning(tmp_path).teach([pair("42")])
    path = next(tmp_path.glob("*.jsonl"))
    newer = path.read_bytes().replace(b'"version":1', b'"version":2')
    path.write_bytes(newer)
    await Learning(tmp_path).teach([pair("42"), pair("41")])
    assert caplog.text.count("written by a newer nearfar") == 1 and path.read_bytes() == newer


async def test_pairs_wait_while_another_program_holds_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.policy.learning.pair_store._TRIES", 1)
    monkeypatch.setattr("offload.policy.learning.pair_store._BETWEEN_S", 0.0)
    await Learning(tmp_path).teach([pair("42")])
    path = next(tmp_path.glob("*.jsonl"))
    learning = LearningInUse(tmp_path, NEAR)
    with turn(path.with_suffix(".lock")):
        learning.take(pair("41"))
        await learning.aclose()
    assert "is held by another program" in caplog.text and len(read_store(path).pairs) == 1
    learning._keep(learned(pair("40"), now=1.0), "big")
    assert len(read_store(path).pairs) == 3, "what waited is written with the next"


async def test_a_damaged_policy_is_said_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Learning(tmp_path).teach(mixed(MIN_PAIRS))
    next(tmp_path.glob("*.json")).write_text("{")
    assert await Learning(tmp_path).teach([pair("42")]) is not None
    assert "cannot be read" in caplog.text and open_learnt(tmp_path, NEAR) is not None


async def test_what_is_forgotten_decides_no_more_in_a_program_that_runs(tmp_path: Path) -> None:
    await Learning(tmp_path).teach(mixed(MIN_PAIRS))
    learner = LearningInUse(tmp_path, NEAR)
    assert learner.newer_rule() is None
    next(tmp_path.glob("*.json")).unlink()
    assert learner.newer_rule() is first_day() and learner.newer_rule() is None
    await learner.aclose()
