"""Redaction: placeholders for what may not leave, the same for the same value everywhere.

A conversation is sent whole with every turn, and values are numbered as they first appear in it:
a value keeps its placeholder from turn to turn, and nothing need be remembered between requests.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from offload.egress.privacy.findings import Finding, Kind, Rules
from offload.egress.privacy.normalise import Normalised, normalise
from offload.egress.privacy.texts import KeyedText, change_texts, names_twice, texts_of
from offload.errors import EgressBlocked
from offload.messages import Request

LABELS: dict[Kind, str] = {
    "secret": "SECRET",
    "card": "CARD",
    "iban": "IBAN",
    "national_id": "ID",
    "email": "EMAIL",
    "phone": "PHONE",
    "name": "NAME",
    "address": "ADDRESS",
    "ip": "IP",
    "path": "PATH",
    "person": "PERSON",
    "place": "PLACE",
}
# As far as the way back reads it: with a backslash of Markdown before its signs, in any case.
_PLACEHOLDER = re.compile(
    rf"(?<![^\W_])({'|'.join(LABELS.values())})\\?[\s_-]?(\d{{1,6}})(?!\d)", re.IGNORECASE
)
_MIN_REPEATED = 5  # characters from which a value is looked for in places where none was detected
_MAX_REPEATED = 500  # values
_CAPITALISED = frozenset({"person", "place"})  # kinds whose values are words when written small
_MAX_KEY = 40  # characters, the last of a key


@dataclass(frozen=True)
class Cleared:
    """Cleared request; `originals` maps placeholders back, `kinds` tells all findings."""

    request: Request
    originals: dict[str, str] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()


class Placeholders:
    """Placeholders, "[EMAIL_1]" and so on, except those that a text already contains."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._taken = {
            f"{label.upper()}_{int(number)}"
            for text in texts
            for label, number in _PLACEHOLDER.findall(normalise(text).text)
        }
        self._by_value: dict[tuple[Kind, str], str] = {}
        self._counts: dict[Kind, int] = {}
        self.originals: dict[str, str] = {}

    def of(self, kind: Kind, original: str) -> str:
        """Return the placeholder of a value, a new one if it was not seen before."""
        value = (kind, _plain(original))
        if value not in self._by_value:
            placeholder = f"[{self._next(kind)}]"
            self._by_value[value] = placeholder
            self.originals[placeholder] = original
        return self._by_value[value]

    def _next(self, kind: Kind) -> str:
        while True:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            label = f"{LABELS[kind]}_{self._counts[kind]}"
            if label not in self._taken:
                return label


def clear(request: Request, rules: Rules) -> Cleared:
    """Return the request with every finding of an action `redact` replaced.

    Raises EgressBlocked for a tool call in which a value could hide behind another.
    """
    _refuse_unclear(request)
    said = texts_of(request)
    texts = [str(text) for text in dict.fromkeys(said)]
    keys: dict[str, set[str]] = {}
    for text in said:
        if isinstance(text, KeyedText) and text.key:
            keys.setdefault(str(text), set()).add(text.key)
    found = find_all(texts, rules, keys)
    kinds = tuple(each.kind for findings in found.values() for each in findings)
    if not kinds:
        return Cleared(request)
    placeholders = Placeholders(texts)
    cleared = {
        text: redact(text, _redacted(findings, rules), placeholders)
        for text, findings in found.items()
    }
    changed = change_texts(request, lambda text: cleared[text])
    return Cleared(changed, placeholders.originals, kinds)


def _refuse_unclear(request: Request) -> None:
    calls = (call for message in request.messages for call in message.tool_calls)
    if any(names_twice(call.arguments) for call in calls):
        raise EgressBlocked(
            "the arguments of a tool call give one key two values, of which one would be hidden; "
            "write each key once"
        )


def find_all(
    texts: Sequence[str], rules: Rules, keys: Mapping[str, Iterable[str]] | None = None
) -> dict[str, list[Finding]]:
    """Return the findings of each text; a value found in one is found wherever it is repeated.

    `keys` are those under which a text stands in JSON: a bare number is told by them.
    """
    read = {text: normalise(text) for text in texts}
    found = {text: _found(text, sorted((keys or {}).get(text, ())), rules) for text in texts}
    values = {
        _plain(text[each.start : each.end]): each.kind
        for text, findings in found.items()
        for each in findings
    }
    values = {value: kind for value, kind in values.items() if len(value) >= _MIN_REPEATED}
    if not values:
        return found
    repeated = _repeats(values)
    return {text: _with_repeats(read[text], found[text], repeated, values) for text in texts}


def _found(text: str, keys: Sequence[str], rules: Rules) -> list[Finding]:
    """Return what is found in a text, also where a key says what it is."""
    # Its patterns take longer to compile than a short answer's prompt to read.
    from offload.egress.privacy.detect import detect

    found = detect(text, rules)
    for key in keys:
        lead = f"{key[-_MAX_KEY:]}: "
        under = [
            Finding(each.kind, max(0, each.start - len(lead)), each.end - len(lead))
            for each in detect(lead + text, rules)
            if each.end > len(lead)
        ]
        found += [
            each
            for each in under
            if all(each.end <= one.start or one.end <= each.start for one in found)
        ]
    return sorted(found, key=lambda each: each.start)


def redact(text: str, findings: Sequence[Finding], placeholders: Placeholders) -> str:
    """Return the text with a placeholder for each finding."""
    parts, at = [], 0
    for each in findings:
        original = text[each.start : each.end]
        parts += [text[at : each.start], placeholders.of(each.kind, original)]
        at = each.end
    return "".join((*parts, text[at:]))


def _redacted(findings: Iterable[Finding], rules: Rules) -> list[Finding]:
    return [each for each in findings if rules.action(each.kind) == "redact"]


def _plain(value: str) -> str:
    return "".join(normalise(value).text.lower().split())


def _repeats(values: Iterable[str]) -> re.Pattern[str]:
    longest = sorted(values, key=len, reverse=True)[:_MAX_REPEATED]
    spaced = (r"\s?".join(map(re.escape, value)) for value in longest)
    return re.compile(rf"(?<!\w)(?:{'|'.join(spaced)})(?!\w)", re.IGNORECASE)


def _with_repeats(
    read: Normalised, findings: list[Finding], repeated: re.Pattern[str], values: dict[str, Kind]
) -> list[Finding]:
    starts, more = [each.start for each in findings], []
    for match in repeated.finditer(read.text):
        start, end = read.origin(*match.span())
        at = bisect_left(starts, end)  # the findings lie apart and in order
        kind = values["".join(match[0].lower().split())]
        if kind in _CAPITALISED and not match[0][0].isupper():
            continue  # reading is not Reading
        if at == 0 or findings[at - 1].end <= start:
            more.append(Finding(kind, start, end))
    return sorted([*findings, *more], key=lambda each: each.start)
