"""Thoughts are told apart from the answer, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.messages import Message, Request, Sampling
from offload.thinking import Split, ThoughtReader, opened, split

CASES = {
    "<think>\nWell: 2 < 3.\n</think>\n\nYes.": Split("Well: 2 < 3.", "Yes."),
    "\n<think>a</think>b": Split("a", "b"),
    "[THINK]a [b][/THINK]c": Split("a [b]", "c"),
    "<think>\n\n</think>\n\nAt once.": Split("", "At once."),
    "<think>cut off": Split("cut off", ""),
    "<think>cut </thi": Split("cut </thi", ""),
    "No thoughts, and <think>no</think> tag that counts.": Split(
        "", "No thoughts, and <think>no</think> tag that counts."
    ),
    "  as it stands ": Split("", "  as it stands "),
    "<thin ice>": Split("", "<thin ice>"),
    "<think>a</think><think>b</think>": Split("a", "<think>b</think>"),
    "": Split("", ""),
    "<th": Split("", "<th"),
}


def streamed(text: str, sizes: list[int]) -> Split:
    reader, told = ThoughtReader(), list[Split]()
    for size in sizes:
        told.append(reader.push(text[:size]))
        text = text[size:]
    told += [reader.push(text), reader.flush()]
    return Split("".join(t.thought for t in told), "".join(t.answer for t in told))


@pytest.mark.parametrize("text", CASES)
def test_thoughts_come_before_the_answer(text: str) -> None:
    assert split(text) == CASES[text]
    assert streamed(text, [1] * len(text)) == CASES[text]


@given(st.sampled_from(sorted(CASES)), st.lists(st.integers(1, 7), max_size=40))
def test_where_the_pieces_end_changes_nothing(text: str, sizes: list[int]) -> None:
    assert streamed(text, sizes) == CASES[text]


def test_an_answer_is_shown_as_soon_as_it_is_none_of_a_tag() -> None:
    reader = ThoughtReader()
    assert reader.push("<thi") == Split("", "")
    assert reader.push("nk>Hm") == Split("Hm", "")
    assert reader.push("m. <") == Split("m.", "")
    assert reader.push("b") == Split(" <b", "")
    assert reader.push("</think>\n\nSo") == Split("", "So")


def test_a_template_that_opens_the_thoughts_is_said_for() -> None:
    chat = Request(messages=(Message(role="user", content="?"),))
    assert opened(chat, "<|assistant|>\n<think>\n") == "<think>\n"
    assert opened(chat, "<think>\n\n</think>\n\n") == ""
    assert opened(Request(prompt="x <think>"), "x <think>") == ""
    schema = Sampling(json_schema={"type": "object"})
    assert opened(Request(messages=chat.messages, sampling=schema), "<think>") == ""
