"""The page's words: the same in both languages, each of them shown somewhere, also of what left."""

from __future__ import annotations

import re
from pathlib import Path

import edge
from offload.egress.privacy.findings import KINDS

PAGE = Path(edge.__file__ or "").parent / "assistant" / "page"
WORDS = sorted(PAGE.glob("words*.js"))
# Named by what a turn, an example or the cloud is, and not by their own letters.
BY_NAME = {"stopped", "interrupted", "failed", "example_1", "example_2", "example_3"}
BY_NAME |= {f"kind_{kind}" for kind in KINDS}
BY_NAME |= {f"ledger_{state}" for state in ("leaving", "failed", "abandoned")}
BY_NAME |= {f"pull_{state}" for state in ("running", "stopping", "stopped", "done", "failed")}
BY_NAME |= {f"welcome_{how}" for how in ("alone", "private", "asks", "far", "away")}


def words() -> dict[str, set[str]]:
    """The keys of each language."""
    known: dict[str, set[str]] = {"en": set(), "zh": set()}
    for path in WORDS:
        source = path.read_text(encoding="utf-8")
        for language, body in re.findall(r"^  (en|zh): \{\n(.*?)^  \},", source, re.M | re.S):
            known[language] |= set(re.findall(r'(\w+): "', body))
    return known


def test_both_languages_have_the_same_words() -> None:
    known = words()
    assert len(known["en"]) > 60 and known["en"] == known["zh"]


def test_no_word_is_left_over_and_none_is_missing() -> None:
    sources = [path for path in PAGE.iterdir() if path.suffix in (".js", ".html")]
    rest = "".join(p.read_text(encoding="utf-8") for p in sources if p not in WORDS)
    known = words()["en"]
    quoted = set(re.findall(r'["\'](\w+)["\']', rest)) | set(re.findall(r"`(\w+)`", rest))
    assert known - BY_NAME - quoted == set()
    asked = set(re.findall(r'\bt\("(\w+)"', rest))
    asked |= set(re.findall(r'data-t(?:-\w+)?="(\w+)"', rest))
    assert asked - known == set()
