"""Reading: what is told of a long prompt, and to whom."""

from __future__ import annotations

import asyncio

from offload.reading import LEAST_TOKENS, PromptReading, heard_by, listener, reading_line


async def test_a_long_prompt_is_told_from_its_beginning_to_its_end() -> None:
    heard: list[tuple[int, int]] = []
    with heard_by(lambda num_read, num_tokens, _: heard.append((num_read, num_tokens))):
        progress = listener()

    def read() -> None:  # in an engine's thread
        reading = PromptReading(progress, 100, 1000)
        reading.tell(612)
        reading.tell(1024)

    await asyncio.to_thread(read)
    await asyncio.sleep(0)
    assert heard == [(100, 1000), (612, 1000), (1000, 1000)]
    assert reading_line(612, 1000) == "reading 612 of 1,000 tokens"


def test_of_a_prompt_that_is_held_already_nothing_is_told() -> None:
    heard: list[int] = []
    reading = PromptReading(lambda num_read, _: heard.append(num_read), 1000, 999 + LEAST_TOKENS)
    reading.tell(1200)
    assert heard == []


async def test_nobody_hears_outside_of_the_block() -> None:
    with heard_by(lambda *_: None):
        assert listener() is not None
    assert listener() is None
