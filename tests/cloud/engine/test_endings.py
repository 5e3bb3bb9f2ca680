"""Where answers begin and end, by the cloud engine."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.pair import CLOUD_MODEL
from tests.endings import keep_what_is_asked_of_ends
from tests.thinking_engines import say_the_tag_that_the_template_wrote, write_thinker


@pytest.mark.parametrize("drafts", [0, 4])
async def test_what_is_asked_of_ends_is_kept(drafts: int) -> None:
    options = EngineOptions(device="cpu", num_speculative_tokens=drafts)
    async with aclosing(CloudEngine(CLOUD_MODEL, options=options)) as engine:
        await keep_what_is_asked_of_ends(engine)


async def test_a_tag_that_the_template_wrote_begins_the_answer(tmp_path: Path) -> None:
    options = EngineOptions(device="cpu")
    async with aclosing(CloudEngine(write_thinker(tmp_path / "m"), options=options)) as engine:
        await say_the_tag_that_the_template_wrote(engine)
