"""Reading of documents: text of every kind and PDF, and what cannot be read is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.documents.pdf import PdfText
from offload.documents.reader import document_of, read_document
from offload.errors import RequestError
from tests.offload.documents.pdfs import bomb, locked, pdf, pdf_of

PAGES = ("The first page\nis about whales.", "The second one\nnames 4711 ships.")


@pytest.mark.parametrize(
    ("name", "data", "kind", "text"),
    [
        ("a.txt", b"one\r\ntwo\rthree", "text", "one\ntwo\nthree"),
        ("a.md", b"\xef\xbb\xbf# one", "markdown", "# one"),
        ("a.py", b"x = 1\n", "code", "x = 1\n"),
        ("note", "鲸鱼".encode("utf-16"), "text", "鲸鱼"),
    ],
)
def test_text_is_read_however_it_is_encoded(name: str, data: bytes, kind: str, text: str) -> None:
    found = document_of(name, data)
    assert (found.kind, found.text) == (kind, text)
    assert [page.number for page in found.pages] == [0]


def test_each_page_of_a_pdf_is_read_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf([*PAGES, ""]))
    found = read_document(path)
    assert (found.name, found.kind) == ("report.pdf", "pdf")
    assert [(page.number, page.text) for page in found.pages] == [(1, PAGES[0]), (2, PAGES[1])]


def test_a_pdf_that_is_locked_against_changes_alone_is_read() -> None:
    assert document_of("a.pdf", locked(pdf(PAGES), "")).pages[1].text == PAGES[1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\0\0", "is not text"),
        (b"\xff\xfe\xfa", "is not text"),
        (b"%PDF-1.4 and nothing more", "is no whole PDF"),
        (pdf(PAGES)[:300], "is no whole PDF"),
        (locked(pdf(PAGES), "secret"), "is locked by a password"),
        (pdf([""]), "has no text in it"),
        (pdf_of([]), "has no text in it"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_remedy(data: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=f"^file.pdf {words}.*(attach|save) "):
        document_of("file.pdf", data)


def test_a_pdf_that_unpacks_without_bounds_ends_its_own_process() -> None:
    data = bomb(200 << 20)
    assert len(data) < 1 << 20
    with pytest.raises(RequestError, match=r"takes too much|no whole PDF"):
        document_of("bomb.pdf", data)


def test_a_damaged_page_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    told = PdfText(pages=((1, "whole"), (3, "whole, too")), num_unread=1)
    monkeypatch.setattr("offload.documents.pdf._read", lambda data: told)
    found = document_of("a.pdf", b"%PDF-1.4")
    assert [page.number for page in found.pages] == [1, 3] and found.num_unread == 1


def test_a_file_that_is_too_large_or_endless_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RequestError, match="at most"):
        read_document(path)
    with pytest.raises(RequestError, match="cannot be read"):
        read_document(tmp_path / "none.txt")
