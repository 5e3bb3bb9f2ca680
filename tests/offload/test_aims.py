"""Names of models that stand for aims of the policy."""

from __future__ import annotations

import pytest

from offload.aims import LISTED, Aim, parse_aim
from offload.errors import RequestError


@pytest.mark.parametrize("name", [*LISTED, "auto-q100", "auto-b0", "auto-w7"])
def test_every_listed_name_is_understood_and_told_back(name: str) -> None:
    assert str(parse_aim(name)) == name


def test_the_models_own_name_and_none_mean_auto() -> None:
    assert parse_aim("") == parse_aim("tiny", ("tiny",)) == Aim()
    assert parse_aim("auto-q95") == Aim("quality", 0.95)
    assert parse_aim("auto-b20") == Aim("budget", 0.2)


@pytest.mark.parametrize("name", ["gpt-4", "auto-q101", "auto-q", "auto-x5", "AUTO", "auto-q-5"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(RequestError, match="auto-local, auto-cloud"):
        parse_aim(name, ("tiny",))
