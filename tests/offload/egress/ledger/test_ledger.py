"""The ledger: nothing is lost to a full disk, a damaged file or a wrong clock; it stays small."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.egress.ledger import schema
from offload.egress.ledger.entries import (
    DaySpending,
    Departure,
    DepartureOutcome,
    LedgerEntry,
    Totals,
)
from offload.egress.ledger.explain import explained, is_about, left_line, totals_line
from offload.egress.ledger.ledger import Ledger
from offload.egress.ledger.reading import open_book
from offload.egress.ledger.schema import start_of_day, tidy
from offload.errors import RequestError, SettingsError
from offload.messages import Finish, Privacy, Request, Route, Usage
from offload.reasons import Decision

NOON = 1_700_000_000.0
DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    kept = Ledger(path, clock=lambda: NOON)
    yield kept
    kept.close()


def leave(ledger: Ledger, *, at: float = NOON, num_bytes: int = 100, name: str = "r") -> str:
    departure = Departure(
        request_id=name,
        left_at=at,
        endpoint="tcp://cloud:1",
        why="unsure",
        privacy="cloud_ok",
        num_bytes=num_bytes,
        digest="ab" * 32,
        content="the text",
    )
    ledger.leaving(departure)
    return departure.key


def decide(ledger: Ledger, name: str = "r", **options: object) -> None:
    route = Route(served_by="edge", reason="confident", confidence=0.9)
    finish = Finish(reason="stop", usage=Usage(prompt_tokens=5, completion_tokens=2), route=route)
    request = Request(id=name, prompt="what I asked", **options)  # type: ignore[arg-type]
    inputs = {"p_near": 0.9, "least_logprob": -0.1, "aim": "auto-b20"}
    decision = Decision(request_id=name, began_at=NOON, inputs=inputs, finish=finish)  # type: ignore[arg-type]
    ledger.record(request, decision)


def lines(path: Path) -> list[LedgerEntry]:
    with open_book(path) as book:
        return book.departures()


def totals(path: Path) -> Totals:
    with open_book(path) as book:
        return book.totals()


def test_a_line_can_be_read_while_the_ledger_is_open(ledger: Ledger) -> None:
    key = leave(ledger)
    assert lines(ledger.path)[0].back.state == "leaving"
    ledger.returned(key, DepartureOutcome(state="answered", bytes_sent=77, cost=0.5, num_tokens=9))
    left = lines(ledger.path)[0]
    assert left.back.state == "answered" and left.num_bytes == 77
    assert ledger.spent_today() == DaySpending(cost=0.5, tokens=9, num_bytes=77)


def test_only_its_owner_may_read_the_file(ledger: Ledger) -> None:
    leave(ledger)
    for file in ledger.path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file


@pytest.mark.parametrize(
    ("privacy", "keeps"),
    [(Privacy.CLOUD_OK, True), (Privacy.ASK, False), (Privacy.LOCAL_ONLY, False)],
)
def test_private_questions_are_never_kept(path: Path, privacy: Privacy, keeps: bool) -> None:
    ledger = Ledger(path, keep_content=True)
    decide(ledger, privacy=privacy)
    ledger.close()
    with open_book(path) as book:
        assert book.decision("last").content == ("what I asked" if keeps else None)
    assert (b"what I asked" in path.read_bytes()) is keeps


def test_a_decision_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    for name in ("abc1", "abc2", "xyz"):
        decide(ledger, name)
    with open_book(ledger.path) as book:
        assert book.decision("last").request_id == "xyz"
        assert book.decision("abc2").request_id == "abc2"
        with pytest.raises(RequestError, match="several"):
            book.decision("abc")
        with pytest.raises(RequestError, match="last"):
            book.decision("nothing")


def test_a_decision_is_told_in_sentences(ledger: Ledger) -> None:
    decide(ledger)
    key = leave(ledger)
    ledger.returned(key, DepartureOutcome(state="failed", bytes_sent=12, failure="gone"))
    with open_book(ledger.path) as book:
        decision = book.decision("last")
        told = " ".join(explained(decision, book.departures(request_id="r")))
    assert (
        "The near model was sure of its answer" in told
        and "counted as sure" in told
        and "%" not in told
    )
    assert "auto-b20" in told and "12 bytes" in told and "tcp://cloud:1" in told
    nothing = " ".join(explained(decision, []))
    assert "Nothing of it left the device." in nothing


def test_the_list_says_at_most_where_nobody_counted(ledger: Ledger) -> None:
    leave(ledger)
    line = left_line(lines(ledger.path)[0])
    assert "at most" in line and "not sure" in line
    assert totals_line(totals(ledger.path), 1) == "100 bytes left in 1 attempts"
    assert totals_line(Totals(), 0) == "nothing has left this device"


def test_lines_wait_in_memory_while_the_file_is_locked_and_none_is_lost(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.egress.ledger.ledger._RETRY_S", 0.0)
    leave(ledger, name="before")
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(3):
        leave(ledger, name=f"while {number}")
    assert ledger.spent_today().num_bytes == 400, "what waits counts too"
    other.execute("ROLLBACK")
    other.close()
    leave(ledger, name="after")
    names = [left.departure.request_id for left in lines(ledger.path)][::-1]
    assert names == ["before", "while 0", "while 1", "while 2", "after"]
    assert ledger.spent_today().num_bytes == 500
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warnings) == 1 and "cannot be written" in warnings[0].message


def test_a_full_disk_loses_nothing_and_warns_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.egress.ledger.ledger._RETRY_S", 0.0)
    ledger = Ledger(path, clock=lambda: NOON)
    leave(ledger, name="before")
    connection = ledger._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")  # what a full disk says: SQLITE_FULL
    for number in range(400):
        leave(ledger, name=f"{number}")
    assert ledger.spent_today().num_bytes == 40_100
    connection.execute("PRAGMA max_page_count=1000000")
    leave(ledger, name="after")
    ledger.close()
    assert len(lines(path)) == 402
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_a_folder_that_cannot_be_made_stops_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    ledger = Ledger(tmp_path / "file" / "ledger.sqlite")
    leave(ledger)
    decide(ledger)
    assert ledger.spent_today().num_bytes == 100
    ledger.close()
    assert "not kept" in caplog.text


@pytest.mark.parametrize("damage", [b"this is no database at all, " * 40, b"SQLite format 3\0junk"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    ledger = Ledger(path)
    leave(ledger)
    ledger.close()
    assert len(lines(path)) == 1
    aside = [file for file in path.parent.iterdir() if "damaged" in file.name]
    assert len(aside) == 1 and aside[0].read_bytes() == damage
    assert str(aside[0]) in caplog.text


def test_a_file_of_no_version_that_there_was_is_moved_away(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=-5")
    connection.close()
    ledger = Ledger(path)
    leave(ledger)
    ledger.close()
    assert len(lines(path)) == 1
    assert any("damaged" in file.name for file in path.parent.iterdir())


def test_a_file_of_a_newer_version_is_left_alone(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    before = path.read_bytes()
    ledger = Ledger(path)
    leave(ledger)
    ledger.close()
    assert path.read_bytes()[:100] != b"" and path.read_bytes()[60:64] == before[60:64]
    assert "newer nearfar" in caplog.text
    with pytest.raises(SettingsError, match="newer nearfar"), open_book(path):
        pass


def test_a_file_from_before_conversations_were_noted_opens_as_before(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.executescript(schema.MIGRATIONS[0])
        connection.execute(
            "INSERT INTO departures (key, request_id, left_at, endpoint, why, privacy, num_bytes, "
            "digest, found) VALUES ('k', 'r', 1, 'tcp://cloud:1', 'unsure', 'ask', 9, 'd', '{}')"
        )
        connection.execute("PRAGMA user_version=1")
    connection.close()
    ledger = Ledger(path)
    leave(ledger, name="new")
    ledger.close()
    with open_book(path) as book:
        new, old = book.departures()
    assert (new.departure.request_id, old.departure.request_id) == ("new", "r")
    assert old.departure.conversation == "" and old.num_bytes == 9


def test_a_line_is_told_in_words_and_found_by_them() -> None:
    departure = Departure(
        request_id="abcdef",
        left_at=NOON,
        endpoint="tcp://cloud:1",
        why="unsure",
        privacy="cloud_ok",
        num_bytes=1234,
        digest="ab" * 32,
        found={"email redact": 2, "ip ask": 1},
        conversation="0123456789",
    )
    left = LedgerEntry(departure=departure, back=DepartureOutcome(state="failed"))
    line = left_line(left)
    assert "at most 1,234 bytes to tcp://cloud:1: the near model was not sure" in line
    assert "2 e-mail addresses replaced, 1 IP address not replaced; failed" in line
    assert line.endswith("in conversation 01234567 (abcdef)")
    assert is_about(left, "E-Mail failed") and is_about(left, "") and is_about(left, "012345678")
    assert not is_about(left, "e-mail answered")


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.connect(path).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE departures (x)"))
    with pytest.raises(sqlite3.OperationalError):
        schema.connect(path)
    monkeypatch.undo()
    with open_book(path) as book:
        assert book.departures() == []


@pytest.mark.parametrize("jump", [30 * DAY, -30 * DAY])
def test_a_clock_that_jumps_for_a_while_hides_nothing_of_today(path: Path, jump: float) -> None:
    now = [NOON]
    ledger = Ledger(path, clock=lambda: now[0])
    leave(ledger, at=NOON - 2 * DAY, num_bytes=1)
    leave(ledger, at=NOON, num_bytes=10)
    now[0] = NOON + jump
    leave(ledger, at=now[0], num_bytes=1000)
    now[0] = NOON
    spent = ledger.spent_today().num_bytes
    assert spent >= 10 and spent % 10 == 0, "today's is counted, and yesterday's is not"
    leave(ledger, at=NOON, num_bytes=10)
    assert ledger.spent_today().num_bytes == spent + 10
    ledger.close()


def test_a_new_day_begins_with_nothing_spent(path: Path) -> None:
    now = [NOON]
    ledger = Ledger(path, clock=lambda: now[0])
    leave(ledger, at=NOON)
    now[0] = start_of_day(NOON) + DAY + 7200
    assert ledger.spent_today() == DaySpending()
    ledger.close()


def test_the_file_stays_small_and_the_sums_stay_true(path: Path) -> None:
    ledger = Ledger(path, keep_content=True, max_bytes=200_000, clock=lambda: NOON)
    for number in range(3000):
        leave(ledger, at=NOON - 3 * DAY, name=f"{number}", num_bytes=7)
    leave(ledger, at=NOON, name="today", num_bytes=5)
    ledger.close()
    assert path.stat().st_size < 300_000
    assert lines(path)[0].departure.request_id == "today" and len(lines(path)) < 3001
    assert totals(path).num_bytes == 3000 * 7 + 5 and totals(path).departures == 3001


def test_what_left_today_is_never_forgotten(path: Path) -> None:
    ledger = Ledger(path, keep_content=True, max_bytes=10_000_000, clock=lambda: NOON)
    for number in range(500):
        leave(ledger, name=f"{number}")
    ledger.close()
    tidy(path, 10_000, now=NOON)
    kept = lines(path)
    assert len(kept) == 500 and all(left.departure.content is None for left in kept)


def test_many_threads_and_two_processes_files_worth_of_lines_are_all_kept(path: Path) -> None:
    ledgers = [Ledger(path), Ledger(path)]

    def write(ledger: Ledger) -> None:
        for number in range(50):
            leave(ledger, name=f"{threading.get_ident()}-{number}")

    threads = [threading.Thread(target=write, args=(ledger,)) for ledger in ledgers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    assert len(lines(path)) == 200


def test_an_empty_ledger_lists_nothing(path: Path) -> None:
    assert lines(path) == [] and totals(path) == Totals()
