"""A name made of somebody's words is one that every system keeps."""

from __future__ import annotations

import pytest

from backbone.file_names import name_fault, name_of


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("What is 2 + 2?", "what-is-2-2.md"),
        ("", "chat.md"),
        ("../../etc/passwd", "etc-passwd.md"),
        ("CON", "chat-con.md"),
        ("nul", "chat-nul.md"),
        ("com\u00b9", "chat-com\u00b9.md"),
        ("C:\\x", "c-x.md"),
        ("Größe 重量", "größe-重量.md"),
    ],
)
def test_a_title_becomes_a_name(title: str, name: str) -> None:
    assert name_of(title, ".md", otherwise="chat") == name


@pytest.mark.parametrize(
    "title", ["n" * 5000, "重" * 5000, "\U0001d400" * 300, "\ud800", "lpt1" * 99]
)
def test_any_title_becomes_a_name_without_fault(title: str) -> None:
    assert name_fault(name_of(title, ".json", otherwise="chat")) is None
