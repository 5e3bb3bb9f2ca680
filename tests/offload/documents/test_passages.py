"""Passages: every word of a document stands in one, none is too long, and each tells its place."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from offload.documents.document import Document, Page
from offload.documents.passages import MAX_CHARS, passages


def text_document(text: str) -> Document:
    return Document(name="a.txt", kind="text", pages=(Page(number=0, text=text),))


@given(st.text(alphabet="ab.# \n鲸", max_size=600), st.integers(16, 80), st.integers(0, 40))
def test_nothing_is_lost_and_none_is_too_long(text: str, max_chars: int, overlap: int) -> None:
    found = list(passages(text_document(text), max_chars=max_chars, overlap=overlap))
    assert all(0 < len(each.text) <= max_chars and each.text.strip() for each in found)
    if not overlap:
        joined = "".join(each.text for each in found)
        assert "".join(joined.split()) == "".join(text.split())


@given(st.lists(st.text(alphabet="ab ", max_size=30), max_size=40), st.integers(0, 60))
def test_a_passage_stands_in_the_lines_that_it_names(lines: list[str], overlap: int) -> None:
    text = "\n".join(lines)
    for each in passages(text_document(text), max_chars=100, overlap=overlap):
        there = "\n".join(lines[each.first_line - 1 : each.last_line])
        assert each.text.strip() in there


def test_a_cut_falls_between_paragraphs_and_before_headings() -> None:
    text = "# One\n" + "word " * 20 + "\n\n# Two\n" + "other " * 20
    found = [each.text for each in passages(text_document(text), max_chars=200)]
    assert [each.split("\n")[0] for each in found] == ["# One", "# Two"]


def test_what_stands_at_a_cut_is_whole_in_one_of_two_passages() -> None:
    lines = [f"line {n} of the text" for n in range(100)]
    found = list(passages(text_document("\n".join(lines)), max_chars=200, overlap=60))
    for before, behind in pairwise(found):
        assert behind.first_line <= before.last_line
        assert behind.last_line > before.last_line


def test_no_passage_reaches_over_a_page() -> None:
    pages = (Page(number=3, text="three"), Page(number=4, text="four\nlines"))
    document = Document(name="a.pdf", kind="pdf", pages=pages)
    assert [(each.title, each.text) for each in passages(document)] == [
        ("a.pdf, page 3", "three"),
        ("a.pdf, page 4", "four\nlines"),
    ]


def test_one_line_of_ten_megabytes_is_cut_between_its_words() -> None:
    found = list(passages(text_document("word and " * 1_100_000)))
    assert sum(len(each.text) + 1 for each in found) >= 9_900_000 - len(found)
    assert all(each.place == "line 1" and each.text.endswith(("word", "and")) for each in found)
    assert len(found) < 2.2 * 9_900_000 / MAX_CHARS
