"""Detection: runs all detectors over one text and resolves where several overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from offload.egress.privacy.contacts import find_emails, find_phones
from offload.egress.privacy.envelopes import find_envelopes
from offload.egress.privacy.findings import KINDS, Action, Finding, Kind, Rules
from offload.egress.privacy.identifiers import (
    find_cards,
    find_ibans,
    find_ips,
    find_national_ids,
    find_paths,
)
from offload.egress.privacy.names import find_names
from offload.egress.privacy.normalise import normalise
from offload.egress.privacy.postal import find_addresses, find_eastern_addresses
from offload.egress.privacy.secrets import find_secrets

Span = tuple[int, int]
Detector = Callable[[str, Rules], Iterable[Span]]

DETECTORS: dict[Kind, Detector] = {
    "secret": lambda text, rules: find_secrets(text),
    "card": lambda text, rules: find_cards(text),
    "iban": lambda text, rules: find_ibans(text),
    "national_id": lambda text, rules: find_national_ids(text),
    "email": lambda text, rules: find_emails(text),
    "phone": lambda text, rules: find_phones(text, rules.countries),
    "name": lambda text, rules: find_names(text, rules.names),
    "address": lambda text, rules: (
        *find_addresses(text),
        *find_envelopes(text),
        *find_eastern_addresses(text),
    ),
    "ip": lambda text, rules: find_ips(text),
    "path": lambda text, rules: find_paths(text),
}
# Where findings of different fates overlap, the one that keeps the most from leaving decides.
_STRICTEST: tuple[Action, ...] = ("block", "redact", "ask", "allow")


def detect(text: str, rules: Rules) -> list[Finding]:
    """Return what the rules care about in a text, in order and without overlaps."""
    read = normalise(text)
    found = [
        Finding(kind, *read.origin(start, end))
        for kind in rules.watched()
        if kind in DETECTORS
        for start, end in DETECTORS[kind](read.text, rules)
        if end > start
    ]
    if rules.entity != "allow":
        from offload.egress.privacy.entities import find_entities  # numpy, and weights to read

        entities = find_entities(read.text)
        found += [Finding(kind, *read.origin(start, end)) for kind, start, end in entities]
    return list(_apart(found, rules))


def _apart(found: Sequence[Finding], rules: Rules) -> Iterator[Finding]:
    """Join findings that overlap into one, of the strictest and likeliest kind among them."""
    together: list[Finding] = []
    end = 0
    for each in sorted(found, key=lambda each: each.start):
        if together and each.start >= end:
            yield _joined(together, rules)
            together = []
        together.append(each)
        end = max(end, each.end)
    if together:
        yield _joined(together, rules)


def _joined(together: Sequence[Finding], rules: Rules) -> Finding:
    def rank(each: Finding) -> tuple[int, int]:
        return _STRICTEST.index(rules.action(each.kind)), KINDS.index(each.kind)

    kind = min(together, key=rank).kind
    return Finding(kind, together[0].start, max(each.end for each in together))
