"""Where answers end, by the cloud engine."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from cloud.engine.engine import CloudEngine
from cloud.engine.options import EngineOptions
from offload.pair import CLOUD_MODEL
from tests.endings import keep_what_is_asked_of_ends


@pytest.mark.parametrize("drafts", [0, 4])
async def test_what_is_asked_of_ends_is_kept(drafts: int) -> None:
    options = EngineOptions(device="cpu", num_speculative_tokens=drafts)
    async with aclosing(CloudEngine(CLOUD_MODEL, options=options)) as engine:
        await keep_what_is_asked_of_ends(engine)
