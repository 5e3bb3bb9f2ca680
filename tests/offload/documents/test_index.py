"""The index of documents: found by words and by vectors, and forgotten when asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.documents.document import Document, Page
from offload.documents.index import DocumentIndex, joined
from offload.documents.words import asked_words, words_of
from offload.errors import SettingsError

TEXTS = {
    "whales.md": "Blue whales are the largest animals. They eat krill.",
    "ships.md": "The ship Aurora was built in 1871 and carried coal.",
    "鲸.md": "蓝鲸是地球上最大的动物。它们以磷虾为食。",
}


def filled(path: Path | None = None, texts: dict[str, str] = TEXTS) -> DocumentIndex:
    index = DocumentIndex(path)
    for name, text in texts.items():
        index.add(Document(name=name, kind="markdown", pages=(Page(number=0, text=text),)), name)
    return index


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("When was the Aurora built?", "ships.md"),
        ("What does a whale eat?", "whales.md"),  # by its stem
        ("什么是最大的动物", "鲸.md"),
        ('"quotes" AND NOT (brackets) NEAR aurora*', "ships.md"),
    ],
)
def test_a_passage_is_found_by_its_words(question: str, name: str) -> None:
    first = filled().search(question, 3)[0]
    assert (first.name, first.place) == (name, "line 1")


def test_without_a_word_in_common_the_beginning_is_given() -> None:
    assert [each.name for each in filled().search("??", 2)] == ["whales.md", "ships.md"]


def test_a_changed_document_takes_the_place_of_the_old_one() -> None:
    index = filled()
    bees = Document(name="n", kind="text", pages=(Page(number=0, text="bees"),))
    index.add(bees, "ships.md", "2")
    assert index.marks()["ships.md"] == "2" and index.num_passages == 3
    assert index.by_words("Aurora coal", 9) == []


def test_what_is_removed_is_not_in_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = filled(path)
    index.remove(["ships.md"])
    index.close()
    assert all(b"Aurora" not in each.read_bytes() for each in tmp_path.iterdir())
    assert path.stat().st_mode & 0o077 == 0


def test_vectors_find_what_words_do_not_and_both_are_joined() -> None:
    index = filled()
    ids = [number for number, _ in index.without_vector("m")]
    shared = [9.0, 9.0, 9.0]  # that all vectors of a model that writes have in common
    own = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    vectors = [[a + b for a, b in zip(shared, each, strict=True)] for each in own]
    index.keep_vectors("m", zip(ids, vectors, strict=True))
    assert index.without_vector("m") == [] and len(index.without_vector("other")) == 3
    assert index.by_vector([9.0, 9.8, 9.0], "m", 3)[0] == ids[1]
    assert index.by_vector([9.0, 9.8, 9.0], "other", 3) == []
    best = index.search("krill", 3, model="m", vector=[9.0, 9.8, 9.0])
    assert {each.name for each in best[:2]} == {"whales.md", "ships.md"}


def test_orders_are_joined_by_their_ranks() -> None:
    assert joined([[1, 2, 3], [2, 9]]) == [2, 1, 9, 3]


def test_a_file_that_is_no_index_is_told(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(SettingsError, match="delete it"):
        DocumentIndex(path)


def test_words_are_cut_where_the_script_changes() -> None:
    assert list(words_of("Q4_K_M 鲸鱼GPU x")) == ["q4", "k", "m", "鲸鱼", "gpu", "x"]


def test_words_that_only_ask_do_not_outweigh_what_is_asked_about() -> None:
    assert asked_words("How much does a berth in Brinwick cost?") == ["berth", "brinwick", "cost"]
    assert asked_words("Who is who?") == ["who", "is"]
