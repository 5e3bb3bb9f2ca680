"""Conversations outlive the process that writes them, are found again, and can really go."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backbone.errors import NearfarError
from edge.conversations.conversation import export
from edge.conversations.conversation_schema import MIGRATIONS, connect
from edge.conversations.store import Conversations
from offload.errors import RequestError, SettingsError
from offload.messages import Finish, Route, Usage

SECRET = "platypus-lagoon-4711"

WRITER = """
import sys
from pathlib import Path
from edge.conversations.store import Conversations

store = Conversations(Path(sys.argv[1]))
talk = store.begin()
store.ask(talk, "count")
answer = store.answer(talk)
for number in range(1_000_000):
    answer.write(f"{number} ", source="edge")
    print(number, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "conversations.sqlite"


@pytest.fixture
def store(path: Path) -> Conversations:
    return Conversations(path)


def said(store: Conversations, question: str, answer: str) -> str:
    talk = store.begin()
    store.ask(talk, question)
    writing = store.answer(talk)
    writing.write(answer, source="edge")
    writing.end("whole", Finish(reason="stop", route=Route(served_by="edge", reason="confident")))
    return talk


def test_a_question_whose_answer_never_began_leaves_roles_that_alternate(
    store: Conversations,
) -> None:
    talk = said(store, "One?", "Yes.")
    for question in ("Never mind", "Two?", "Three?"):
        store.ask(talk, question)
        store.answer(talk).end("stopped")
    store.instruct(talk, "Be brief.")
    messages = store.read(talk).messages()
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[-1].content == "Never mind\n\nTwo?\n\nThree?"
    assert len(store.read(talk).turns) == 8, "what is shown stays as it was"


def test_what_was_said_is_read_back(store: Conversations) -> None:
    talk = said(store, "How long is a year?", "365 days")
    whole = store.read(talk)
    assert [turn.content for turn in whole.turns] == ["How long is a year?", "365 days"]
    assert whole.turns[1].finish is not None and whole.turns[1].finish.route is not None
    assert whole.heading.title == "How long is a year?"
    assert [message.role for message in whole.messages()] == ["user", "assistant"]


def test_a_killed_writer_loses_at_most_the_last_token(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    confirmed = [int(next(writer.stdout)) for _ in range(200)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    confirmed = max([confirmed, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.wait()
    writer.stdout.close()
    store = Conversations(path)
    (heading,) = store.headings()
    answer = store.read(heading.id).turns[1]
    kept = answer.content.split()
    assert kept[: confirmed + 1] == [str(number) for number in range(confirmed + 1)]
    assert len(kept) <= confirmed + 2
    assert answer.state == "interrupted"
    # What it had written can be found, and the conversation goes on.
    assert store.search(f"{confirmed - 1} {confirmed} ")
    store.ask(heading.id, "go on")


def test_an_answer_under_way_elsewhere_is_not_called_dead(path: Path) -> None:
    first = Conversations(path)
    talk = first.begin()
    first.ask(talk, "hello")
    first.answer(talk).write("wor")
    assert Conversations(path).read(talk).turns[1].state == "writing"


def test_a_replacing_piece_withdraws_what_came_before(store: Conversations) -> None:
    talk = store.begin()
    store.ask(talk, "?")
    writing = store.answer(talk)
    writing.write("wrong", source="edge")
    writing.write("ri", source="cloud", replaces=True)
    writing.write("ght", source="cloud")
    turn = store.read(talk).turns[1]
    assert (turn.content, turn.source) == ("right", "cloud")


@pytest.mark.parametrize("text", ["capital", "CAPITAL", "apita", "巴黎", "法国的", 'say "hi"', "%"])
def test_any_part_of_a_text_is_found(store: Conversations, text: str) -> None:
    wanted = said(store, 'The capital? say "hi" 100%', "法国的首都是巴黎")
    said(store, "something else", "entirely")
    assert [hit.heading.id for hit in store.search(text)] == [wanted]


@pytest.mark.parametrize("text", ['"', "AND", "NEAR(", "*", "a OR b", "col:", "'"])
def test_a_search_takes_any_text_literally(store: Conversations, text: str) -> None:
    said(store, "question", "answer")
    assert store.search(text) == []


def test_a_renamed_conversation_is_found_by_its_title(store: Conversations) -> None:
    talk = said(store, "hello there", "hi")
    store.rename(talk, "  Greetings  ")
    assert [hit.heading.title for hit in store.search("greet")] == ["Greetings"]
    with pytest.raises(RequestError):
        store.rename(talk, " ")


def test_a_deleted_conversation_leaves_no_byte_of_its_text(
    store: Conversations, path: Path
) -> None:
    talk = said(store, f"my secret is {SECRET}", f"I shall keep {SECRET}")
    other = said(store, "stay", "staying")
    assert any(SECRET.encode() in each.read_bytes() for each in path.parent.iterdir())
    store.delete(talk)
    for each in path.parent.iterdir():
        assert SECRET.encode() not in each.read_bytes(), each
        assert SECRET[:9].encode() not in each.read_bytes(), each
    assert store.search(SECRET) == []
    assert [heading.id for heading in store.headings()] == [other]
    assert [hit.heading.id for hit in store.search("staying")] == [other]


def test_what_is_undone_is_kept_found_and_brought_back(store: Conversations) -> None:
    talk = said(store, "first question", "first answer")
    asked = store.ask(talk, f"second {SECRET}")
    assert store.versions.undo(talk) == f"second {SECRET}"
    assert [hit.turn for hit in store.search(SECRET)] == [asked]
    assert store.versions.unanswer(talk) == "first question"
    assert [turn.role for turn in store.read(talk).turns] == ["user"]
    assert store.versions.redo(talk) and store.read(talk).turns[-1].content == f"second {SECRET}"
    assert not store.versions.redo(talk)
    assert store.versions.undo(talk) and store.versions.undo(talk) == "first question"
    assert store.versions.undo(talk) is None and store.read(talk).turns == ()


def test_the_beginning_of_an_id_is_enough(store: Conversations) -> None:
    talk = said(store, "a", "b")
    assert store.find(talk[:8]) == talk == store.latest()
    for wrong in ("", "zz", "%", "_"):
        with pytest.raises(RequestError, match="conversations list"):
            store.find(wrong)


def test_a_deleted_conversation_takes_no_more_turns(store: Conversations) -> None:
    talk = said(store, "a", "b")
    store.delete(talk)
    for act in (lambda: store.ask(talk, "c"), lambda: store.read(talk)):
        with pytest.raises(RequestError, match="deleted"):
            act()


def test_the_file_is_private(store: Conversations, path: Path) -> None:
    said(store, "a", "b")
    assert path.stat().st_mode & 0o077 == 0


def test_turns_that_lead_round_in_a_circle_are_read_once(store: Conversations, path: Path) -> None:
    talk = said(store, "what", "that")
    with closing(sqlite3.connect(path)) as damaged, damaged:
        damaged.execute("UPDATE turn SET parent = (SELECT max(id) FROM turn)")
    assert [heading.num_turns for heading in store.headings()] == [1]
    assert [turn.content for turn in store.read(talk).turns] == ["that"]
    assert store.versions.ends(talk) == [1, 2]


def test_a_file_of_no_version_that_there_was_is_damaged(path: Path) -> None:
    Conversations(path).close()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA user_version=-5")
    with pytest.raises(SettingsError, match="damaged"):
        Conversations(path)


def test_an_old_file_is_brought_up_to_date_and_a_newer_refused(path: Path) -> None:
    connect(path).close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    raw.execute("PRAGMA user_version=999")
    raw.close()
    with pytest.raises(SettingsError, match="newer nearfar"):
        connect(path)


def test_a_file_that_is_no_database_is_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(NearfarError, match="move the file away"):
        Conversations(path)


def test_an_export_says_who_answered(store: Conversations) -> None:
    talk = said(store, "How long is a year?", "365 days")
    text = export(store.read(talk), "markdown")
    assert text.startswith("# How long is a year?\n")
    assert "## nearfar (near: the near model was sure of its answer)\n\n365 days" in text
    document = json.loads(export(store.read(talk), "json"))
    assert document["turns"][1]["content"] == "365 days"
    assert document["turns"][1]["finish"]["route"]["served_by"] == "edge"


def test_usage_is_kept_with_the_answer(store: Conversations) -> None:
    talk = store.begin(system="Be brief.")
    store.ask(talk, "?")
    store.answer(talk).end("stopped", Finish(reason="cancelled", usage=Usage(bytes_sent=7)))
    turn = store.read(talk).turns[1]
    assert turn.state == "stopped" and turn.finish is not None and turn.finish.usage.bytes_sent == 7
    assert store.read(talk).messages()[0].content == "Be brief."


def test_old_conversations_open_as_before(path: Path) -> None:
    path.parent.mkdir(parents=True)
    raw = sqlite3.connect(path, isolation_level=None)
    for version, migrate in enumerate(MIGRATIONS[:3], 1):
        migrate(raw)
        raw.execute(f"PRAGMA user_version={version}")
        raw.execute("COMMIT")
    for talk in ("a" * 32, "b" * 32):
        raw.execute(
            "INSERT INTO conversation (id, title, created_at, changed_at) VALUES (?, 't', 1, 1)",
            (talk,),
        )
    for talk, role, content in (
        ("a" * 32, "user", "one"),
        ("b" * 32, "user", "uno"),
        ("a" * 32, "assistant", "1"),
        ("a" * 32, "user", "two"),
    ):
        raw.execute(
            "INSERT INTO turn (conversation, role, content, state, created_at) "
            "VALUES (?, ?, ?, 'whole', 1)",
            (talk, role, content),
        )
    raw.close()
    store = Conversations(path)
    whole = store.read("a" * 32)
    assert [turn.content for turn in whole.turns] == ["one", "1", "two"]
    assert whole.others == () and whole.heading.num_turns == 3
    assert all(turn.versions == () for turn in whole.turns)
    assert [turn.content for turn in store.read("b" * 32).turns] == ["uno"]
    store.ask("a" * 32, "three")
    assert store.read("a" * 32).turns[-1].content == "three"


def test_answers_are_versions_of_each_other_and_each_keeps_what_followed(
    store: Conversations,
) -> None:
    talk = said(store, "question", "first answer")
    store.ask(talk, "and then?")
    for _ in range(2):
        store.versions.undo(talk)
    store.versions.redo(talk)
    store.versions.before(talk, store.read(talk).turns[1].id)
    store.answer(talk).end("whole")
    second = store.read(talk).turns[1]
    assert len(second.versions) == 2 and store.read(talk).heading.num_turns == 2
    store.versions.choose(talk, second.versions[0])
    shown = [turn.content for turn in store.read(talk).turns]
    assert shown == ["question", "first answer", "and then?"]
    assert [turn.id for turn in store.read(talk).others] == [second.id]
    with pytest.raises(RequestError, match="no such version"):
        store.versions.choose(talk, 4711)


def test_an_answer_that_is_left_waits_for_nothing_better(store: Conversations) -> None:
    talk = said(store, "question", "near answer")
    store.versions.unanswer(talk)
    writing = store.answer(talk)
    writing.end("whole")
    writing.wait("in-the-outbox")
    assert store.awaits("in-the-outbox")
    store.versions.unanswer(talk)
    assert not store.awaits("in-the-outbox")


def test_an_answer_that_goes_on_is_found_as_a_whole_and_only_so(store: Conversations) -> None:
    talk = store.begin()
    store.ask(talk, "count")
    writing = store.answer(talk)
    writing.write("alpha beta ")
    writing.end("stopped")
    again = store.resume(writing.turn)
    assert store.read(talk).turns[1].state == "writing" and store.search("beta") == []
    again.write("gamma")
    again.end("whole")
    assert store.read(talk).turns[1].content == "alpha beta gamma"
    assert store.search("beta gamma")
    store.database.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_a_question_behind_a_file_gives_the_title(store: Conversations) -> None:
    talk = store.begin()
    store.ask(talk, "notes.md:\n```\nlong text\n```\n\nWhat does it say?")
    assert store.read(talk).heading.title == "What does it say?"


def test_redo_brings_back_what_was_undone_and_not_another_version(store: Conversations) -> None:
    talk = said(store, "question", "first answer")
    first = store.versions.tip(talk)
    store.versions.unanswer(talk)
    store.answer(talk).end("whole")
    store.versions.choose(talk, first)
    store.ask(talk, "and then?")
    for _ in range(2):
        store.versions.undo(talk)
    assert store.read(talk).turns == ()
    assert store.versions.redo(talk)
    assert [turn.content for turn in store.read(talk).turns] == [
        "question",
        "first answer",
        "and then?",
    ]


def test_a_pinned_conversation_is_listed_first_and_is_not_the_latest_for_that() -> None:
    store = Conversations()
    first, second = store.begin(title="first"), store.begin(title="second")
    store.ask(second, "hello")
    store.pin(first, True)
    assert [(each.title, each.pinned) for each in store.headings()] == [
        ("first", True),
        ("second", False),
    ]
    assert store.latest() == second
    store.pin(first, False)
    assert [each.title for each in store.headings()] == ["second", "first"]
