"""Placeholder restoring: the originals put back into an answer while it streams.

Models change placeholders a little: "[EMAIL_1]" comes back as "email_1", "[Email 1]" or, from one
that writes Markdown, as "\\[EMAIL\\_1\\]". Within brackets any of these is read; without brackets
only with its underscore or hyphen, so that a plain "email 1" stays what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from offload.egress.privacy.answer_context import LinkWatch, StringWatch

_OPEN, _CLOSE = r"[\[{⟦【]", r"[\]}⟧】]"
_MAX_HELD = 32  # characters; no placeholder is longer, its brackets and backslashes included


class Restorer:
    """Restorer of originals: takes an answer piece by piece and gives it back with them.

    In JSON (`as_json`), and in the strings of calls where the request has tools (`with_calls`), an
    original is written as the inside of a string. Within a link of the cloud's a placeholder is
    left as it is, and counted in `num_left`.
    """

    def __init__(
        self, originals: Mapping[str, str], *, as_json: bool = False, with_calls: bool = False
    ) -> None:
        self._originals = {
            placeholder.strip("[]"): value for placeholder, value in originals.items()
        }
        self._as_json, self._with_calls = as_json, with_calls
        self.num_left = 0
        self._watch_anew()
        labels = sorted({name.rpartition("_")[0] for name in self._originals})
        self._whole = _whole(labels) if labels else None
        self._begun = _begun(labels) if labels else None
        self._held = ""
        self._before = ""  # "0" if the text goes on behind a letter or digit, where no label begins

    def feed(self, text: str) -> str:
        """Take the next piece and return what is certain by now."""
        if self._whole is None or self._begun is None:
            return text
        seen = self._before + self._held + text
        start = max(len(self._before), len(seen) - _MAX_HELD)
        growing = self._begun.search(seen, start)
        cut = growing.start() if growing else len(seen)
        self._held = seen[cut:]
        return self._told(seen[:cut])

    def end(self) -> str:
        """Return the rest; the answer ends here."""
        rest, self._held = self._held, ""
        return self._told(self._before + rest)

    def forget(self) -> None:
        """Drop what is held: the answer begins anew."""
        self._held = self._before = ""
        self.num_left = 0
        self._watch_anew()

    def _watch_anew(self) -> None:
        self._links, self._strings = LinkWatch(), StringWatch()

    def _told(self, text: str) -> str:
        """Return the text with originals, without what stands for the one before."""
        if self._whole is None or not text:
            return text
        parts, at = [], len(self._before)
        for match in self._whole.finditer(text):
            parts += [self._seen(text[at : match.start()]), self._original(match)]
            at = match.end()
        parts.append(self._seen(text[at:]))
        self._before = "0" if text[-1:].isalnum() else " "
        return "".join(parts)

    def _seen(self, text: str) -> str:
        self._links.see(text)
        self._strings.see(text)
        return text

    def _original(self, match: re.Match[str]) -> str:
        label = match["label"] or match["bare_label"]
        number = match["number"] or match["bare_number"]
        original = self._originals.get(f"{label.upper()}_{int(number)}")
        if original is None:
            return self._seen(match[0])
        if self._links.is_inside:
            self.num_left += 1
            return self._seen(match[0])
        self._links.see("x" if original.strip() else " ")  # a word, whatever stands in it
        return self._as_written(original)

    def _as_written(self, original: str) -> str:
        if self._as_json:
            return _inside_json(original)
        if not self._with_calls or not self._strings.quote:
            return original
        inside = _inside_json(original)
        return inside if self._strings.quote == '"' else inside.replace("'", "\\'")


def _whole(labels: Sequence[str]) -> re.Pattern[str]:
    any_label = "|".join(labels)
    return re.compile(
        rf"\\?{_OPEN}\s?(?P<label>{any_label})\\?[ _-](?P<number>\d{{1,6}})\s?\\?{_CLOSE}"
        rf"|(?<![^\W_])(?P<bare_label>{any_label})\\?[_-](?P<bare_number>\d{{1,6}})(?![^\W_])",
        re.IGNORECASE,
    )


def _begun(labels: Sequence[str]) -> re.Pattern[str]:
    """Return what matches the beginning of a placeholder, where it stands at the end of a text."""
    numbered = (r"\d{1,6}",)
    forms = [
        _beginning((r"\\?", _OPEN, r"\s?", *x, r"\\?", "[ _-]", *numbered, r"\s?", r"\\?"))
        for x in labels
    ]
    bare = [_beginning((*x, r"\\?", "[_-]", *numbered)) for x in labels]
    return re.compile(rf"(?:{'|'.join(forms)})|(?<![^\W_])(?:{'|'.join(bare)})", re.IGNORECASE)


def _beginning(atoms: Sequence[str]) -> str:
    """Return a pattern for the first atom and as many more as there are before the text ends."""
    pattern = r"\Z"
    for atom in reversed(atoms):
        pattern = rf"{atom}(?:\Z|{pattern})"
    return pattern


def _inside_json(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]
