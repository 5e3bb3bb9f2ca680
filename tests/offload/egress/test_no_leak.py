"""Not one byte of a private text leaves, whatever fails: read at the socket, in logs and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.egress.outbox import OUT_OF_REACH
from tests.offload.leaks import hunt, traces


async def test_nothing_private_leaves_under_faults(tmp_path: Path) -> None:
    found = await hunt(tmp_path, num_private=150, seed=3, num_at_once=64)
    assert found.num_private == found.num_public == 150
    assert sum(found.traces.values()) == 0, found.traces
    assert found.num_stopped_at_the_door == 0, "the gate let a private text through"
    # The search does find what left, and faults did happen.
    assert found.num_public_on_the_wire > 50 and found.wire_bytes > 10_000
    assert any(found.ends[reason] for reason in OUT_OF_REACH), found.ends
    assert found.num_exceptions > 0 and found.faults


async def test_the_door_alone_keeps_private_texts_in(tmp_path: Path) -> None:
    found = await hunt(tmp_path, num_private=50, seed=4, gate=False)
    assert sum(found.traces.values()) == 0, found.traces
    assert found.num_stopped_at_the_door == 40


@pytest.mark.parametrize("form", [bytes, lambda b: b[::-1], lambda b: b.hex().encode()])
def test_the_search_sees_a_mark_in_other_forms(form: object) -> None:
    mark = "Zx81kPqWm3LtRv90aBcD"
    assert traces(mark, b"..." + form(mark.encode()) + b"...") > 0  # type: ignore[operator]


def test_the_search_sees_a_mark_in_base64_of_a_longer_text() -> None:
    import base64

    mark = "Zx81kPqWm3LtRv90aBcD"
    for before in range(5):
        coded = base64.b64encode(b"x" * before + mark.encode() + b"and more")
        assert traces(mark, coded) > 0, before
