"""Conversations of other programs: taken over whole, once, and within bounds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge.conversations import conversation_import, imported
from edge.conversations.cli import conversations_app
from edge.conversations.conversation import export_all
from edge.conversations.conversation_import import keep_imported, read_export
from edge.conversations.store import Conversations
from offload.config.places import places
from offload.errors import RequestError
from offload.messages import Privacy


def node(parent: str | None, role: str = "", *parts: Any, **more: Any) -> dict[str, Any]:
    if not role:
        return {"message": None, "parent": parent, "children": []}
    content = {"content_type": "text", "parts": list(parts)}
    return {"message": {"author": {"role": role}, "content": content, **more}, "parent": parent}


def chatgpt(**nodes: Any) -> dict[str, Any]:
    """One conversation as ChatGPT exports it: a hidden root, and versions of an answer."""
    mapping = {
        "root": node(None),
        "system": node("root", "system", ""),
        "q": node("system", "user", "What is a tree?", create_time=1700000001.5),
        "a1": node("q", "assistant", "A plant."),
        "a2": node("q", "assistant", "A graph without circles."),
        "tool": node("a2", "tool", "search results"),
        "q2": node("tool", "user", {"content_type": "image_asset_pointer"}, "And this?"),
        **nodes,
    }
    head = {"title": "Trees", "create_time": 1700000000.0, "current_node": "q2", "id": "c-1"}
    return {**head, "mapping": mapping, "moderation_results": []}


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def kept(path: Path, store: Conversations | None = None) -> Conversations:
    store = store or Conversations()
    for each in read_export(path).conversations:
        keep_imported(store, each)
    return store


def test_a_tree_of_chatgpts_keeps_its_versions_and_shows_the_path_that_was_shown(
    tmp_path: Path,
) -> None:
    store = kept(written(tmp_path / "conversations.json", [chatgpt()]))
    (heading,) = store.headings()
    assert (heading.title, heading.created_at) == ("Trees", 1700000000.0)
    whole = store.read(heading.id)
    assert [turn.content for turn in whole.turns] == [
        "What is a tree?",
        "A graph without circles.",
        "[image]\n\nAnd this?",
    ]
    assert len(whole.turns[1].versions) == 2 and whole.others[0].content == "A plant."
    assert whole.turns[0].created_at == 1700000001.5
    assert store.search("without circles")[0].heading.id == heading.id


def test_nothing_is_taken_over_twice_and_what_was_added_since_stays(tmp_path: Path) -> None:
    path = written(tmp_path / "conversations.json", [chatgpt()])
    store = kept(path)
    (heading,) = store.headings()
    store.ask(heading.id, "one more")
    kept(path, store)
    assert len(store.headings()) == 1 and store.headings()[0].num_turns == 4


def test_a_zip_and_jans_folder_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("conversations-000.json", json.dumps([chatgpt()]))
        archive.writestr("user.json", "{}")
        archive.writestr("../../evil.json", "[]")
    assert len(kept(tmp_path / "export.zip").headings()) == 1
    thread = tmp_path / "jan" / "threads" / "t1"
    thread.mkdir(parents=True)
    head = {"id": "t1", "title": "Kites", "created": 1700000000000, "updated": 1700000009}
    written(thread / "thread.json", head | {"assistants": [{"instructions": "Be brief."}]})
    said = [("user", "How do kites fly?"), ("assistant", "By the wind."), ("system", "no")]
    lines = [
        json.dumps({"role": role, "content": [{"type": "text", "text": {"value": text}}]})
        for role, text in said
    ]
    (thread / "messages.jsonl").write_text("\n".join(lines))
    store = kept(tmp_path / "jan")
    (heading,) = store.headings()
    whole = store.read(heading.id)
    assert (heading.title, heading.created_at, whole.system) == ("Kites", 1700000000.0, "Be brief.")
    assert [turn.content for turn in whole.turns] == ["How do kites fly?", "By the wind."]


def test_all_that_is_exported_can_be_taken_over_again(tmp_path: Path) -> None:
    store = kept(written(tmp_path / "conversations.json", [chatgpt()]))
    own = store.begin(system="Be kind.", title="Own")
    store.ask(own, "hello \ud800 there".encode("utf-8", "replace").decode())
    (tmp_path / "all.json").write_text("".join(export_all(store.every())))
    again = kept(tmp_path / "all.json")
    said = {
        each.title: [turn.content for turn in again.read(each.id).turns]
        for each in again.headings()
    }
    assert said == {
        each.title: [turn.content for turn in store.read(each.id).turns]
        for each in store.headings()
    }
    assert again.read(own).system == "Be kind."
    (tmp_path / "none.json").write_text("".join(export_all(Conversations().every())))
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_one_that_is_broken_does_not_spoil_the_others(tmp_path: Path) -> None:
    circle = chatgpt(x=node("y", "user", "round"), y=node("x", "assistant", "and round"))
    broken: list[Any] = [7, {"mapping": 3}, {"mapping": {"a": {"message": {"author": 1}}}}]
    found = read_export(written(tmp_path / "c.json", [*broken, circle, chatgpt()]))
    assert len(found.conversations) == 2 and found.num_unread == 3
    # What leads round in a circle hangs on no root, and is left out.
    assert len(found.conversations[0].turns) == 4 and all(
        "round" not in turn.content for turn in found.conversations[0].turns
    )


@pytest.mark.parametrize(
    "document", [{}, "x", 3, [], None, [[[[]]]], [{"mapping": {}}], {"mapping": {}}]
)
def test_what_is_no_export_is_one_line_or_nothing(document: object, tmp_path: Path) -> None:
    path = written(tmp_path / "other.json", document)
    try:
        assert read_export(path).conversations == ()
    except RequestError as error:
        assert "\n" not in str(error)


def test_a_bomb_a_deep_file_and_a_long_turn_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation_import, "MAX_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", b" " * 1_000_000)
    with pytest.raises(RequestError, match="unpacks to more"):
        read_export(tmp_path / "bomb.zip")
    (tmp_path / "large.json").write_bytes(b" " * 200_000)
    with pytest.raises(RequestError, match="at most"):
        read_export(tmp_path / "large.json")
    (tmp_path / "deep.json").write_text("[" * 40_000)
    with pytest.raises(RequestError, match="no conversations"):
        read_export(tmp_path / "deep.json")
    monkeypatch.setattr(imported, "MAX_CHARACTERS", 10)
    found = read_export(written(tmp_path / "c.json", [chatgpt()]))
    assert (found.conversations, found.num_unread) == ((), 1)


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    written(tmp_path / "secret.json", {"id": "x"})
    folder = tmp_path / "threads"
    folder.mkdir()
    (folder / "thread.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(RequestError, match="no conversations"):
        read_export(folder)


_TEXT = st.text(max_size=20)
_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.fixed_dictionaries(
            {
                "parent": st.none() | st.sampled_from("abcde"),
                "message": st.none()
                | st.fixed_dictionaries(
                    {
                        "author": st.fixed_dictionaries(
                            {"role": st.sampled_from(("user", "assistant", "tool"))}
                        ),
                        "content": st.fixed_dictionaries(
                            {
                                "content_type": st.just("text"),
                                "parts": st.lists(_TEXT | _VALUE, max_size=3),
                            }
                        ),
                    }
                ),
            }
        ),
    ),
    _VALUE,
)
def test_whatever_tree_comes_is_kept_or_left_out(nodes: dict[str, Any], other: Any) -> None:
    from edge.conversations.chatgpt_export import read_chatgpt

    document = json.dumps({"title": "x", "mapping": nodes, "more": other, "current_node": "a"})
    try:
        found = read_chatgpt(document.encode())
    except (ValueError, msgspec.MsgspecError):
        return
    if found is not None:
        store = Conversations()
        keep_imported(store, found)
        assert store.read(found.id).turns
        store.close()


def test_the_commands_take_over_and_export_all(tmp_path: Path) -> None:
    path = written(tmp_path / "conversations.json", [chatgpt()])
    run = CliRunner()
    told = run.invoke(conversations_app, ["import", str(path), "--json"])
    assert json.loads(told.stdout) == {"imported": 1, "here": 0, "unread": 0}
    again = run.invoke(conversations_app, ["import", str(path)])
    assert "1 were here already" in again.stdout
    everything = run.invoke(conversations_app, ["export", "--all"])
    (whole,) = json.loads(everything.stdout)
    assert whole["heading"]["title"] == "Trees"
    assert Conversations(places().conversations).read(whole["heading"]["id"]).privacy is Privacy.ASK
