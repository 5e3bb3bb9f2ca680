"""Whatever a model writes, the page reads it in time that is in proportion to its length."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.page_text import growths, node, page_texts, runaways
from tests.hostile import Hostile

NODE = node()
pytestmark = pytest.mark.skipif(
    NODE is None, reason="there is no Node, and no Playwright to bring one"
)


def test_no_text_of_a_model_makes_the_page_read_longer_than_in_proportion() -> None:
    assert NODE is not None
    slow = runaways(growths(NODE, page_texts()))
    slow = runaways(growths(NODE, [each.text for each in slow]))  # others use this machine, too
    assert not slow


def test_a_page_that_reads_again_and_again_is_seen(tmp_path: Path) -> None:
    assert NODE is not None
    (tmp_path / "markdown.js").write_text(
        "export const render = (text) => text.replace(/[a-z]+@/g, '');\n", encoding="utf-8"
    )
    assert runaways(growths(NODE, [Hostile("", "a", "!")], tmp_path))
