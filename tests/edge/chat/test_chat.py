"""A conversation on a scripted screen: its commands, what is kept, and when it asks."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from backbone.terminal_text import printable
from edge.chat.chat import Chat
from edge.chat.chat_commands import COMMANDS, changed
from edge.chat.consent import ConsentPrompt, Reply
from edge.chat.dialogue import AnswerOptions
from edge.chat.leaving_text import Line
from edge.chat.markdown_stream import settled
from edge.chat.screen import PlainScreen
from edge.chat.status_line import link_state, status
from edge.conversations.store import Conversations
from offload.config.places import places
from offload.documents.reader import MAX_FILE_BYTES
from offload.egress.door import Door, EgressEngine
from offload.egress.permission import LivePermission
from offload.errors import CloudUnreachable, RequestError
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.link.client import CloudLink
from offload.messages import Delta, Finish, Privacy, Request, Route, Sampling
from offload.policy.serving.rule import ThresholdRule
from tests.offload.scripted import ScriptedEngine


class ScriptedScreen:
    """A person who writes the lines given, and notes what is shown."""

    def __init__(self, *lines: str, reply: str = "n") -> None:
        self._lines = list(lines)
        self._reply = reply
        self.answers: list[str] = []
        self.remarks: list[str] = []
        self.asked: list[str] = []
        self.readings: list[str] = []
        self.copied: list[str] = []
        self.shown: list[str] = []

    async def read(self) -> str:
        if not self._lines:
            raise EOFError
        return self._lines.pop(0)

    def answering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def copy(self, text: str) -> bool:
        self.copied.append(text)
        return True

    def reading(self, progress: str) -> None:
        self.readings.append(progress)

    def leaving(self, lines: Sequence[Line]) -> None:
        self.shown += ["".join(text for text, _ in line) for line in lines]

    def offer(self, text: str) -> None:
        self._lines.insert(0, text.replace("bob@example.com", "somebody"))

    def show(self, delta: Delta) -> None:
        pass

    def end(self, text: str, finish: Finish | None) -> None:
        self.answers.append(text)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def fail(self, text: str) -> None:
        self.remarks.append(text)

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        self.asked.append(question)
        return self._reply


def hybrid(consent: ConsentPrompt | None = None, *, near: Sequence[str] = ("near",)) -> Hybrid:
    cloud = ScriptedEngine(("far",))
    options = HybridOptions(rule=ThresholdRule(min_logprob=-0.1))  # the script is never so sure
    if consent is None:
        return Hybrid(ScriptedEngine(near), cloud, options=options)
    allowed = LivePermission(places().config_file)
    return Hybrid(ScriptedEngine(near), cloud, options=options, consent=consent, allowed=allowed)


def far(engine: object) -> ScriptedEngine:
    assert isinstance(engine, Hybrid) and engine.cloud is not None
    assert isinstance(engine.cloud.cloud, ScriptedEngine)
    return engine.cloud.cloud


async def talk(
    *lines: str,
    store: Conversations | None = None,
    engine: Hybrid | None = None,
    privacy: Privacy = Privacy.CLOUD_OK,
    reply: str = "n",
    live: Callable[[], Privacy] | None = None,
) -> tuple[Chat, ScriptedScreen]:
    screen = ScriptedScreen(*lines, reply=reply)
    options = AnswerOptions(privacy=privacy)
    kept = store or Conversations()
    chat = Chat(engine or hybrid(), screen, kept, options=options, commands=COMMANDS, privacy=live)
    await chat.run()
    return chat, screen


async def test_a_conversation_is_kept_and_its_past_is_read() -> None:
    chat, _ = await talk("first", "second", privacy=Privacy.LOCAL_ONLY)
    assert chat.conversation is not None
    turns = chat.store.read(chat.conversation).turns
    assert [turn.content for turn in turns] == ["first", "near", "second", "near"]
    assert isinstance(chat.engine, Hybrid) and isinstance(chat.engine.edge, ScriptedEngine)
    second = chat.engine.edge.requests[1]
    assert [message.content for message in second.messages] == ["first", "near", "second"]
    assert second.session == chat.conversation


async def test_near_and_far_answer_again_on_their_side() -> None:
    chat, screen = await talk("question", "/near", "/far", "/near another")
    assert screen.answers == ["far", "near", "far", "near"]
    assert chat.conversation is not None
    kept = [turn.content for turn in chat.store.read(chat.conversation).turns]
    assert kept == ["question", "far", "another", "near"]


async def test_the_earlier_name_of_far_still_asks_far_and_says_the_new_one() -> None:
    _, screen = await talk("question", "/near", "/cloud")
    assert screen.answers == ["far", "near", "far"]
    assert "/cloud is called /far now" in screen.remarks


async def test_without_a_cloud_the_far_side_is_refused_with_its_remedy() -> None:
    _, screen = await talk("question", "/far", engine=Hybrid(ScriptedEngine(("near",)), None))
    assert screen.answers == ["near"] and "nearfar link join" in screen.remarks[-1]


async def test_local_only_is_stronger_than_cloud() -> None:
    chat, screen = await talk("question", "/far", privacy=Privacy.LOCAL_ONLY)
    assert screen.answers == ["near", "near"] and far(chat.engine).requests == []


async def test_undo_forget_and_new_leave_what_they_say() -> None:
    store = Conversations()
    _, screen = await talk("one", "/undo", "two", "/new", "three", store=store)
    assert [heading.num_turns for heading in store.headings()] == [2, 2]
    assert any("taken back: one" in remark for remark in screen.remarks)
    await talk("secret", "/forget", store=store, reply="y")
    assert store.search("secret") == []
    _, screen = await talk("public", "/forget", store=store, reply="n")
    assert store.search("public") and "kept" in screen.remarks[-1]


async def test_why_tells_of_the_answer_that_is_newest_where_one_is() -> None:
    store = Conversations()
    _, screen = await talk("/why", "question", "/why", "/new", "/why", store=store)
    none, of_question, _, of_new = screen.remarks
    assert of_question.startswith("far ·")
    assert none == of_new == "nothing has been answered yet"
    _, screen = await talk(f"/open {store.latest()[:8]}", "/why", "/undo", "/why", store=store)
    assert any(each.startswith("far ·") for each in screen.remarks)
    assert screen.remarks[-1] == "nothing has been answered yet"


async def test_an_earlier_conversation_is_found_and_gone_on_with() -> None:
    store = Conversations()
    await talk("about zebras", store=store)
    name = store.latest()[:8]
    chat, screen = await talk("/list zebra", f"/open {name}", "more", store=store)
    assert any(name in remark for remark in screen.remarks)
    assert chat.conversation is not None and len(store.read(chat.conversation).turns) == 4


async def test_params_and_the_system_prompt_reach_the_engine() -> None:
    chat, _ = await talk("/params temperature=0.7 top_k=40", "/system Be brief.", "hi")
    assert isinstance(chat.engine, Hybrid) and isinstance(chat.engine.edge, ScriptedEngine)
    request = chat.engine.edge.requests[0]
    assert (request.sampling.temperature, request.sampling.top_k) == (0.7, 40)
    assert request.messages[0].content == "Be brief."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/params heat=3", "NAME=VALUE"),
        ("/params temperature=hot", "must be a number"),
        ("/params temperature=9", "between 0.0 and 5.0"),
        ("/retry", "ask something first"),
        ("/undo", "ask something first"),
        ("/open zz", "conversations list"),
        ("/model other", "--model"),
        ("/file", "name a text file"),
        ("/file nowhere.txt", "check its name"),
        ("/retyr", "did you mean /retry"),
    ],
)
async def test_a_mistake_is_one_remark_and_the_chat_goes_on(line: str, words: str) -> None:
    _, screen = await talk(line, "hello")
    assert words in screen.remarks[0] and "\n" not in screen.remarks[0]
    assert screen.answers == ["far"]


async def test_a_path_is_a_question_not_a_command() -> None:
    _, screen = await talk("/etc/hosts is what?")
    assert screen.answers == ["far"]


async def test_help_names_every_command() -> None:
    _, screen = await talk("/help")
    assert all(any(name in remark for remark in screen.remarks) for name in COMMANDS)


async def test_a_file_goes_with_the_next_question_only(tmp_path: Path) -> None:
    notes = tmp_path / "notes.md"
    notes.write_text("```\ncode\n```")
    chat, _ = await talk(f"/file {notes}", "what is this?", "and now?")
    assert chat.conversation is not None
    asked = [t.content for t in chat.store.read(chat.conversation).turns if t.role == "user"]
    assert asked[0] == "notes.md:\n````\n```\ncode\n```\n````\n\nwhat is this?"
    assert asked[1] == "and now?"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG\0\0", "not text"),
        (b"\xff\xfe\xfa", "not text"),
        (b"a" * (MAX_FILE_BYTES + 1), "most"),
    ],
)
async def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    _, screen = await talk(f"/file {path}")
    assert words in screen.remarks[0]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no endless file")
async def test_a_file_without_an_end_is_refused() -> None:
    _, screen = await talk("/file /dev/zero")
    assert "has no end" in screen.remarks[0]


async def test_save_writes_what_was_said_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    _, screen = await talk("question", f"/save {path}", f"/save {path}")
    assert "far" in path.read_text()
    assert "there already" in screen.remarks[-1]


async def test_a_failed_answer_takes_its_question_back() -> None:
    broken = Hybrid(ScriptedEngine(error=CloudUnreachable("gone; try again")), None)
    chat, screen = await talk("question", engine=broken)
    assert screen.remarks == ["gone; try again"]
    assert chat.conversation is not None and chat.store.read(chat.conversation).turns == ()


async def test_text_that_left_the_window_is_said() -> None:
    ending = Finish(reason="stop", dropped_tokens=64)
    _, screen = await talk("question", engine=Hybrid(ScriptedEngine(finish=ending), None))
    assert screen.remarks == ["64 tokens of the oldest text have left the window"]


@pytest.mark.parametrize(
    ("reply", "asked", "left"),
    [("once", 3, 3), ("conversation", 2, 3), ("always", 1, 3), ("no", 3, 0), ("never", 1, 0)],
)
async def test_it_asks_before_a_message_leaves_and_remembers(
    reply: Reply, asked: int, left: int
) -> None:
    questions: list[Request] = []

    async def ask(request: Request) -> Reply:
        questions.append(request)
        return reply

    here = places()
    engine = hybrid(ConsentPrompt(ask, here))
    allowed = LivePermission(here.config_file)
    await talk(
        "one",
        "two",
        "/new",
        "three",
        engine=engine,
        live=lambda: allowed().class_of_text(attended=True),
    )
    assert (len(questions), len(far(engine).requests)) == (asked, left)
    remembered = allowed().class_of_text(attended=True)
    wanted = {"always": Privacy.CLOUD_OK, "never": Privacy.LOCAL_ONLY}
    assert remembered is wanted.get(reply, Privacy.ASK)


async def test_a_question_can_be_changed_before_it_leaves() -> None:
    replies: list[Reply] = ["edit", "once"]

    async def ask(request: Request) -> Reply:
        return replies.pop(0)

    chats: list[Chat] = []
    consent = ConsentPrompt(ask, None, edits=lambda _: chats[0].edit_instead())
    engine = hybrid(consent)
    screen = ScriptedScreen("who is bob@example.com?")
    chat = Chat(engine, screen, Conversations(), options=AnswerOptions(), commands=COMMANDS)
    chats.append(chat)
    await chat.run()
    (left,) = far(engine).requests
    assert left.last_text() == "who is somebody?"
    assert "change your question; what you send is asked in its place" in screen.remarks
    assert chat.conversation is not None
    turns = chat.store.read(chat.conversation).turns
    assert turns[0].content == "who is somebody?"


async def test_the_status_line_tells_without_asking() -> None:
    chat, _ = await talk("question")
    line = status(chat.engine, chat.last)
    assert line.startswith("scripted · far scripted") and "far model not asked yet" in line
    assert "context 3/4096" in line


async def test_the_state_of_a_real_link_is_seen_through_the_door() -> None:
    link = CloudLink("tcp://127.0.0.1:9", connect_timeout_s=0.2, patience_s=0.2)
    engine = Hybrid(ScriptedEngine(), EgressEngine(link, door=Door(endpoint=link.endpoint)))
    assert link_state(engine) == "set_up"  # it was not asked yet
    with pytest.raises(CloudUnreachable):
        await link.connect()
    assert link_state(engine) == "away"
    await engine.aclose()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("a paragraph", ""),
        ("one\n\ntwo", "one\n\n"),
        ("```\ncode\n\nmore\n", ""),
        ("```\ncode\n\n```\n\nafter", "```\ncode\n\n```\n\n"),
        ("~~~\n```\n\n~~~\n\nx", "~~~\n```\n\n~~~\n\n"),
        ("one\n \n", "one\n \n"),
    ],
)
def test_only_whole_blocks_are_printed_for_good(text: str, whole: str) -> None:
    assert text[: settled(text)] == whole


def test_a_model_cannot_command_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\x9b2Jc\td\n\r\x7f") == "a]0;titleb2Jc\td\n"


def test_a_terminal_marks_where_another_model_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", out)
    screen = PlainScreen()
    for text, source in (("It is ", "cloud"), ("rather ", "edge"), ("cold.", "edge")):
        screen.show(Delta(text=text, source=source))  # type: ignore[arg-type]
    assert out.getvalue() == "It is [near:] rather cold."


THOUGHT = ("<think>", "\nLet me", " see.\n", "</think>", "\n\nIt is", " 4.")


async def test_thoughts_are_folded_kept_and_handed_back() -> None:
    engine = hybrid(near=THOUGHT)
    chat, screen = await talk(
        "2+2?", "/thoughts", "sure?", engine=engine, privacy=Privacy.LOCAL_ONLY
    )
    assert screen.answers == ["It is 4.", "It is 4."]
    assert screen.remarks[0] == "thinking ..."
    assert "thought for 1 s; /thoughts shows it" in screen.remarks
    assert "Let me see." in screen.remarks
    assert chat.conversation is not None
    kept = chat.store.read(chat.conversation).turns[1].content
    assert kept == "".join(THOUGHT), "nothing is lost"
    again = ScriptedScreen("/thoughts")
    await Chat(
        engine,
        again,
        chat.store,
        options=AnswerOptions(),
        commands=COMMANDS,
        conversation=chat.conversation,
    ).run()
    assert again.remarks == ["Let me see."], "of an earlier run, too"
    assert isinstance(engine.edge, ScriptedEngine)
    told = engine.edge.requests[1].messages[1]
    assert (told.content, told.reasoning) == ("It is 4.", "Let me see.")


async def test_thinking_is_switched_for_what_follows() -> None:
    engine = hybrid()
    await talk("a", "/no_think b", "c", "/think", "d /no_think", engine=engine)
    assert isinstance(engine.edge, ScriptedEngine)
    asked = engine.edge.requests
    assert [each.template_options for each in asked] == [
        None,
        {"enable_thinking": False},
        {"enable_thinking": False},
        {"enable_thinking": True},
    ]
    assert asked[3].last_text() == "d /no_think", "a model's own switch reaches it"


async def test_thoughts_of_a_withdrawn_answer_go_with_it() -> None:
    engine = hybrid(near=("<think>no", " idea</think>", "near"))
    chat, screen = await talk("question", engine=engine)
    assert screen.answers == ["far"] and not chat.thoughts


async def test_how_far_a_long_prompt_has_been_read_is_shown() -> None:
    near = ScriptedEngine(("near",), reads=((0, 900), (512, 900), (900, 900)))
    _, screen = await talk("a long one", engine=Hybrid(near, None))
    assert screen.readings[:2] == ["reading 0 of 900 tokens", "reading 512 of 900 tokens"]
    assert screen.answers == ["near"]


async def test_versions_are_listed_chosen_and_made_by_retry_and_edit() -> None:
    chat, screen = await talk("question", "/near", "/edit other words", "/versions", "/versions 1")
    listed = [each for each in screen.remarks if "/3  " in each]
    assert listed == [
        "  1/3  question -> far",
        "  2/3  question -> near",
        "* 3/3  other words -> far",
    ]
    assert chat.conversation is not None
    whole = chat.store.read(chat.conversation)
    assert [turn.content for turn in whole.turns] == ["question", "far"]
    assert screen.remarks[-2:] == ["> question", "far"]


async def test_what_was_undone_and_deleted_is_brought_back() -> None:
    chat, screen = await talk("question", "/undo", "/redo", "/forget", "/restore", reply="y")
    assert any("Delete 'question', 2 turns?" in each for each in screen.asked)
    assert chat.conversation is not None
    assert [turn.content for turn in chat.store.read(chat.conversation).turns] == [
        "question",
        "far",
    ]
    _, screen = await talk("/restore")
    assert "nothing that was deleted" in screen.remarks[-1]


async def test_an_answer_that_reached_its_limit_goes_on() -> None:
    cut = Finish(reason="length", route=Route(served_by="edge", reason="offline"))
    near = ScriptedEngine(("one ",), finish=cut)
    chat, screen = await talk("count", "/continue", engine=Hybrid(near, None))
    assert chat.conversation is not None
    (_, turn) = chat.store.read(chat.conversation).turns
    assert turn.content == "one one " and near.requests[-1].answer_prefix == "one "
    assert any("/continue" in each for each in screen.remarks)
    _, screen = await talk("question", "/continue")
    assert "no answer to go on with" in screen.remarks[-1]


async def test_a_conversation_that_goes_on_shows_its_title_and_last_turns() -> None:
    store = Conversations()
    await talk("about zebras", store=store)
    screen = ScriptedScreen()
    chat = Chat(
        hybrid(),
        screen,
        store,
        options=AnswerOptions(),
        commands=COMMANDS,
        conversation=store.latest(),
    )
    chat.show_past()
    assert screen.remarks[0].startswith("— about zebras · 2 turns · ")
    assert screen.remarks[1:] == ["> about zebras", "far"]


async def test_a_question_that_fails_again_leaves_the_answer_that_was_there() -> None:
    near = ScriptedEngine(("fine",))
    chat, screen = await talk("question", engine=Hybrid(near, None))
    near.error = RequestError("it broke; ask again")
    assert chat.conversation is not None
    await chat._take("/retry")
    assert [turn.content for turn in chat.store.read(chat.conversation).turns] == [
        "question",
        "fine",
    ]
    assert "it broke" in screen.remarks[-1]


async def test_an_answer_or_its_code_is_copied() -> None:
    said = "Like this:\n\n```python\nx = 1\ny = 2\n```\n\nand so on"
    near = ScriptedEngine((said,))
    _, screen = await talk("how?", "/copy", "/copy code", engine=Hybrid(near, None))
    assert screen.copied == [said, "x = 1\ny = 2"]
    _, screen = await talk("how?", "/copy code")
    assert "no code" in screen.remarks[-1] and screen.copied == []


async def test_the_temperature_is_the_models_own_until_it_is_set_and_again_when_asked() -> None:
    own = Sampling(own=True)
    warm = changed(own, "temperature=0.5 top_p=0.8")
    assert warm == Sampling(temperature=0.5, top_p=0.8)
    assert changed(warm, "temperature=own") == Sampling(own=True, top_p=0.8)
    assert changed(own, "top_k=3") == Sampling(own=True, top_k=3)
