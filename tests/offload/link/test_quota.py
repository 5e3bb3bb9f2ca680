from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from offload.config.settings import QuotaSettings
from offload.errors import SettingsError
from offload.link.local_keys import open_meter
from offload.link.quota import Quota, QuotaMeter
from offload.messages import Delta, Finish, Request, Sampling, Usage


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def metered(clock: Clock, path: Path | None = None, **limits: float) -> QuotaMeter:
    return QuotaMeter(Quota(**limits), path, clock=clock, wall=clock)  # type: ignore[arg-type]


def why_not(meter: QuotaMeter) -> str:
    wait = meter.why_not("a")
    assert wait is not None and wait.seconds > 0
    return wait.why


def test_no_quota_is_no_limit() -> None:
    meter = QuotaMeter(Quota())
    meter.count_request("a")
    meter.count_tokens("a", 10**9)
    assert meter.why_not("a") is None


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    meter = metered(clock, requests_per_s=0.5, burst_s=4)
    for _ in range(2):
        assert meter.why_not("a") is None
        meter.count_request("a")
    assert "in 2.0 s" in why_not(meter)
    assert meter.why_not("b") is None, "another device is not held back"
    clock.now += 2
    assert meter.why_not("a") is None


def test_tokens_may_be_overdrawn_once_and_are_paid_back() -> None:
    clock = Clock()
    meter = metered(clock, tokens_per_s=10, burst_s=10)
    assert meter.why_not("a") is None
    meter.count_tokens("a", 200)
    assert "in 10.1 s" in why_not(meter)
    clock.now += 10.2
    assert meter.why_not("a") is None


def test_a_bucket_does_not_fill_beyond_its_burst() -> None:
    clock = Clock()
    meter = metered(clock, requests_per_s=1, burst_s=2)
    assert meter.why_not("a") is None
    clock.now += 1000
    meter.count_request("a")
    meter.count_request("a")
    assert meter.why_not("a") is not None


@pytest.mark.parametrize(
    ("limit", "what"), [("requests_per_day", "requests"), ("tokens_per_day", "tokens")]
)
def test_the_budget_of_the_day_is_for_the_day(limit: str, what: str) -> None:
    clock = Clock()
    meter = metered(clock, **{limit: 2})
    for _ in range(2):
        assert meter.why_not("a") is None
        meter.count_request("a")
        meter.count_tokens("a", 1)
    assert f"2 {what} of the day" in why_not(meter)
    clock.now += 86_400
    assert meter.why_not("a") is None


def test_a_restart_does_not_give_the_day_anew(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "used.sqlite"
    meter = metered(clock, path, requests_per_day=1)
    meter.count_request("a")
    assert path.stat().st_mode & 0o777 == 0o600
    assert metered(clock, path, requests_per_day=1).why_not("a") is not None
    meter.close()
    clock.now += 86_400
    assert metered(clock, path, requests_per_day=1).why_not("a") is None


def test_tokens_are_written_every_second_and_at_the_end(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "used.sqlite"
    meter = metered(clock, path, tokens_per_day=2)
    meter.count_tokens("a", 1)
    assert not path.exists(), "not at every token"
    clock.now += 1.5
    meter.count_tokens("a", 1)
    assert metered(clock, path, tokens_per_day=2).why_not("a") is not None
    meter.count_tokens("b", 2)
    assert metered(clock, path, tokens_per_day=2).why_not("b") is None
    meter.close()
    assert metered(clock, path, tokens_per_day=2).why_not("b") is not None


def test_processes_that_share_the_file_share_the_budgets(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "used.sqlite"
    one, other = (metered(clock, path, requests_per_day=3) for _ in range(2))
    for meter in (one, other, one):
        assert meter.why_not("a") is None
        meter.count_request("a")
    assert one.why_not("a") is not None
    other.count_request("b")
    other.count_request("a")
    assert "3 requests of the day" in why_not(other)
    one.close()
    other.close()


def test_names_of_devices_and_of_keys_do_not_meet(tmp_path: Path) -> None:
    path, quota = tmp_path / "used.sqlite", Quota(requests_per_day=1)
    devices, keys = QuotaMeter(quota, path), QuotaMeter(quota, path, scope="http:")
    devices.count_request("a")
    assert keys.why_not("a") is None and devices.why_not("a") is not None
    devices.close()


def test_a_file_that_is_being_written_is_tried_again(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "used.sqlite"
    meter = metered(clock, path, requests_per_day=1)
    meter.count_tokens("x", 1)
    meter.save(now=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        meter.count_request("a")
        assert meter.why_not("a") is not None, "it is counted, if not yet written"
        other.execute("ROLLBACK")
    meter.close()
    assert metered(clock, path, requests_per_day=1).why_not("a") is not None


def test_without_a_budget_of_the_day_nothing_is_written(tmp_path: Path) -> None:
    meter = QuotaMeter(Quota(requests_per_s=100), tmp_path / "used.sqlite")
    meter.count_request("a")
    meter.close()
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "used.sqlite"
    path.write_bytes(b"[] is no database" * 100)
    with pytest.raises(SettingsError, match=r"used\.sqlite is damaged"):
        metered(Clock(), path, requests_per_day=1)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_quota_of_nothing_is_refused(value: float) -> None:
    with pytest.raises(SettingsError, match="tokens_per_s"):
        Quota(tokens_per_s=value)


def test_what_the_settings_allow_is_what_a_device_gets(tmp_path: Path) -> None:
    unlimited = open_meter(QuotaSettings(), tmp_path)
    assert unlimited.why_not("a") is None
    meter = open_meter(QuotaSettings(requests_per_day=1), tmp_path)
    meter.count_request("a")
    assert "1 requests of the day" in why_not(meter)
    again = open_meter(QuotaSettings(requests_per_day=1), tmp_path)
    assert again.why_not("a") is not None, "a restart does not give the day anew"


ASKED = Request(prompt="x" * 30, sampling=Sampling(max_tokens=100))  # about 11 tokens to read


def test_answers_under_way_hold_what_they_may_use() -> None:
    meter = metered(Clock(), tokens_per_day=150)
    first = meter.reserve("a", ASKED)
    assert meter.why_not("a") is None
    second = meter.reserve("a", ASKED)
    assert "answers under way" in why_not(meter)
    assert meter.why_not("b") is None, "another device is not held back"
    second.refused()
    assert meter.why_not("a") is None, "what was refused used nothing"
    first.see(Finish(reason="stop", usage=Usage(prompt_tokens=10, completion_tokens=40)))
    assert meter.why_not("a") is None
    third = meter.reserve("a", ASKED)
    assert "answers under way" in why_not(meter)
    third.see(Finish(reason="stop", usage=Usage(prompt_tokens=10, completion_tokens=90)))
    assert "has used its 150 tokens" in why_not(meter)


def test_who_leaves_at_the_first_piece_has_used_the_prompt() -> None:
    meter = metered(Clock(), tokens_per_day=100)
    for _ in range(8):
        assert meter.why_not("a") is None
        account = meter.reserve("a", ASKED)
        account.see(Delta(text="one", token_ids=(1,)))
        account.left()
        account.left()
    assert meter.why_not("a") is None  # 96 of 100
    meter.reserve("a", ASKED).left()
    assert "has used its 100 tokens" in why_not(meter)


def test_many_at_once_pass_a_budget_by_one_answer_at_most() -> None:
    meter, taken = metered(Clock(), tokens_per_day=2000), []
    while meter.why_not("a") is None:
        taken.append(meter.reserve("a", ASKED))
    assert len(taken) == 2000 // 111 + 1
    for account in taken:
        account.see(Finish(reason="length", usage=Usage(prompt_tokens=11, completion_tokens=100)))
    assert "has used its 2000 tokens" in why_not(meter)


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0, 40 * 86_400.0, -400 * 86_400.0])
def test_a_clock_that_is_set_gives_no_budget_back(tmp_path: Path, jump_s: float) -> None:
    wall, clock, path = Clock(), Clock(), tmp_path / "used.sqlite"

    def opened() -> QuotaMeter:
        return QuotaMeter(Quota(requests_per_day=1), path, clock=clock, wall=wall)

    meter = opened()
    meter.count_request("a")
    wall.now += jump_s
    assert meter.why_not("a") is not None, "while the clock is wrong"
    meter.count_request("b")
    wall.now -= jump_s
    assert meter.why_not("a") is not None, "when it is right again"
    meter.close()
    wall.now += jump_s
    away = opened()  # started while the clock is wrong: it cannot know
    away.count_request("c")
    away.close()
    wall.now -= jump_s
    again = opened()
    again.count_request("d")
    assert again.why_not("a") is not None, "a row from another day swept none out"
    again.close()


def test_a_day_ends_as_time_passes_though_the_clock_was_set() -> None:
    wall, clock = Clock(), Clock()
    meter = QuotaMeter(Quota(requests_per_day=1), clock=clock, wall=wall)
    meter.count_request("a")
    wall.now -= 10 * 86_400
    clock.now += 86_400
    wall.now += 86_400
    assert meter.why_not("a") is None
