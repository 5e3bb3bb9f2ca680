"""Findings: the kinds of private text that are detected, and the rule for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from offload.errors import SettingsError

Kind = Literal[
    "secret",
    "card",
    "iban",
    "national_id",
    "email",
    "phone",
    "name",
    "address",
    "ip",
    "path",
    "person",
    "place",
]
Action = Literal["block", "redact", "allow", "ask"]

# The likelier reading first, where one stretch of text can be read in several ways.
KINDS: tuple[Kind, ...] = get_args(Kind)
ACTIONS: tuple[Action, ...] = get_args(Action)
# Kinds that share one rule: persons and places are found by one detector.
RULES_OF: dict[Kind, str] = {kind: kind for kind in KINDS} | {"person": "entity", "place": "entity"}
RULES: tuple[str, ...] = tuple(dict.fromkeys(RULES_OF.values()))


@dataclass(frozen=True)
class Finding:
    """Finding: a stretch of a text, [start, end), and its kind."""

    kind: Kind
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Actions for each kind of finding; `names` and `countries` tell the detectors more.

    `entity` is the rule for persons and places that stand on no list.

    `countries` are ISO codes; telephone numbers without a country code are read as theirs.
    """

    secret: Action = "redact"
    card: Action = "redact"
    iban: Action = "redact"
    national_id: Action = "redact"
    email: Action = "redact"
    phone: Action = "redact"
    name: Action = "redact"
    address: Action = "redact"
    ip: Action = "allow"
    path: Action = "allow"
    entity: Action = "allow"
    names: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for rule in RULES:
            if getattr(self, rule) not in ACTIONS:
                raise SettingsError(
                    f"privacy.{rule} is {getattr(self, rule)!r}; "
                    f"it must be one of {', '.join(ACTIONS)}"
                )
        for country in self.countries:
            if len(country) != 2 or not country.isalpha() or not country.isupper():
                raise SettingsError(
                    f"privacy.countries names {country!r}; give codes of two letters, as in US,DE"
                )

    def action(self, kind: Kind) -> Action:
        """Return what is done with findings of this kind."""
        action: Action = getattr(self, RULES_OF[kind])
        return action

    def watched(self) -> tuple[Kind, ...]:
        """Return the kinds that are not simply allowed."""
        return tuple(kind for kind in KINDS if self.action(kind) != "allow")


assert {field.name for field in fields(Rules)} >= set(RULES), "there is a rule for every kind"


def counted(kinds: Iterable[Kind], rules: Rules) -> dict[str, int]:
    """Return how many of each kind were found, and what was done: {"email redact": 2}."""
    return dict(Counter(f"{kind} {rules.action(kind)}" for kind in kinds))
