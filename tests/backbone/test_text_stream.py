from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbone.text_stream import TextStream

# A small alphabet with characters of one to four bytes makes stop strings and overlaps likely.
alphabet = st.text("ab\né漢😀", max_size=30)
stops = st.lists(st.text("ab\né漢😀", min_size=1, max_size=4), max_size=3)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def until_first_stop(text: str, stop: list[str]) -> str:
    return text[: min([at for at in map(text.find, stop) if at >= 0], default=len(text))]


@given(alphabet, st.lists(st.integers(0, 200)))
def test_however_the_bytes_are_cut_the_text_is_whole(text: str, places: list[int]) -> None:
    stream = TextStream()
    pieces = [stream.push(piece) for piece in cut(text.encode(), places)]
    assert "".join(pieces) + stream.flush() == text
    assert "\ufffd" not in "".join(pieces)


@given(alphabet, stops)
def test_nothing_of_a_stop_string_and_nothing_after_it(text: str, stop: list[str]) -> None:
    stream = TextStream(stop)
    out = ""
    for piece in cut(text.encode(), list(range(200))):
        out += stream.push(piece)
        if stream.stopped:
            break
    out += stream.flush()
    # A shorter stop string may end before a longer one that began earlier is complete.
    expected = {until_first_stop(text[:end], stop) for end in range(len(text) + 1)}
    assert out in expected
    assert not any(one in out for one in stop)
    assert stream.stopped == any(one in text for one in stop)


@given(alphabet, stops, st.lists(st.integers(0, 200)))
def test_text_is_never_held_longer_than_it_may_begin_a_stop(
    text: str, stop: list[str], places: list[int]
) -> None:
    stream = TextStream(stop)
    given_out, taken = "", b""
    for piece in cut(text.encode(), places):
        taken += piece
        given_out += stream.push(piece)
        if stream.stopped:
            return
        held = taken.decode("utf-8", "ignore")[len(given_out) :]
        assert held == "" or any(one.startswith(held) and one != held for one in stop)


@given(st.lists(st.binary(max_size=6), max_size=10))
def test_bytes_that_are_no_text_are_replaced_and_not_raised(pieces: list[bytes]) -> None:
    stream = TextStream(["ab"])
    out = "".join(stream.push(piece) for piece in pieces) + stream.flush()
    if not stream.stopped:
        assert out == b"".join(pieces).decode("utf-8", "replace")


def test_half_a_character_waits_for_the_other_half() -> None:
    stream = TextStream()
    euro = "€".encode()
    assert [stream.push(euro[:1]), stream.push(euro[1:2]), stream.push(euro[2:])] == ["", "", "€"]


def test_a_character_cut_off_at_the_end_is_shown_as_replaced() -> None:
    stream = TextStream()
    stream.push("€".encode()[:2])
    assert stream.flush() == "\ufffd"


def test_the_start_of_a_stop_string_is_held_and_then_released() -> None:
    stream = TextStream(["</s>"])
    assert stream.push(b"a</") == "a"
    assert stream.push(b"b>") == "</b>"
    assert stream.push(b"<") == ""
    assert stream.flush() == "<"
    assert not stream.stopped


@pytest.mark.parametrize("pieces", [[b"abSTOPcd"], [b"abST", b"OPcd"], [b"ab", b"STOP"]])
def test_a_stop_string_ends_the_text_wherever_it_is_cut(pieces: list[bytes]) -> None:
    stream = TextStream(["STOP"])
    assert "".join(map(stream.push, pieces)) == "ab"
    assert stream.stopped
    assert stream.push(b"more") == ""
    assert stream.flush() == ""


def test_of_two_stop_strings_the_earlier_in_the_text_wins() -> None:
    stream = TextStream(["cd", "bc"])
    assert stream.push(b"abcd") == "a"
