"""A policy file from somebody else is refused in one line, or every question is judged by it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offload.aims import parse_aim
from offload.errors import RequestError, SettingsError
from offload.pair import EDGE_POLICY
from offload.policy.serving.calibrated import load_calibrated
from offload.policy.serving.policy_file import prior_path
from offload.policy.serving.signals import Signals

ODD: tuple[Any, ...] = (None, -1, 0, 2**63, 1e308, "x", [], {}, [[]], [1e308] * 3, True)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of every value, of long lists only the first."""
    yield at
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:1]) if isinstance(value, list) else items
    for key, inner in items:
        yield from leaves(inner, (*at, key))


def changed(whole: Any, at: tuple[Any, ...], odd: Any) -> Any:
    made = copy.deepcopy(whole)
    if not at:
        return odd
    inner = made
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = odd
    return made


WHOLE = json.loads(EDGE_POLICY.read_bytes())


@pytest.mark.parametrize("at", list(leaves(WHOLE)), ids=lambda at: "/".join(map(str, at)) or "all")
def test_a_value_that_cannot_be_is_refused_or_does_no_harm(
    tmp_path: Path, at: tuple[Any, ...]
) -> None:
    path = tmp_path / "policy.json"
    shutil.copy(prior_path(EDGE_POLICY), prior_path(path))
    for odd in ODD:
        path.write_text(json.dumps(changed(WHOLE, at, odd)))
        try:
            rule = load_calibrated(path)
        except SettingsError as error:
            assert "\n" not in str(error)
            continue
        expected = rule.expect("What is 2 + 2?")
        assert expected.far is None or 0.0 <= expected.far <= 1.0
        for aim in ("auto", "auto-q95", "auto-b20"):
            limit = rule.limit(parse_aim(aim))
            rule.gives_up(Signals(), expected, limit)
        try:
            rule.limit(parse_aim("auto-w5"))
        except RequestError as error:
            assert "\n" not in str(error)
