"""Options declared by a dataclass: flags of a command, and bounds with their remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from msgspec import Meta
from typer.testing import CliRunner

from backbone.declared_options import from_options, require_bounds
from backbone.errors import WrongUsage


@dataclass(frozen=True, kw_only=True)
class Wanted:
    count: Annotated[int, Meta(ge=1, le=9), typer.Option("--many", help="How many.")] = 2
    share: Annotated[float, Meta(gt=0), typer.Option(help="Of all.")] = 0.5
    words: Annotated[list[str], typer.Option(help="Some.")] = field(default_factory=list)
    plain: Annotated[int, Meta(ge=0)] = 0
    inner: str = "kept"

    def __post_init__(self) -> None:
        require_bounds(self, WrongUsage)


def run(*arguments: str) -> tuple[int, str, object]:
    app, seen = typer.Typer(), []

    @app.command()
    @from_options(Wanted)
    def want(options: Wanted, *, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        """Want some."""
        seen.append((options, as_json))

    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output, seen[0] if seen else result.exception


def test_the_fields_are_the_flags_and_the_command_may_have_more() -> None:
    assert run() == (0, "", (Wanted(), False))
    given = run("--many", "3", "--words", "a", "--words", "b", "--json")
    assert given == (0, "", (Wanted(count=3, words=["a", "b"]), True))


def test_the_help_is_that_of_the_fields() -> None:
    _, told, _ = run("--help")
    assert "How many." in told and "--json" in told and "Want some." in told
    assert "--inner" not in told and "--plain" not in told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"count": 0}, "--many is 0; it must be from 1 to 9"),
        ({"count": 10}, "--many is 10; it must be from 1 to 9"),
        ({"share": 0.0}, "--share is 0.0; it must be above 0"),
        ({"share": float("nan")}, "--share is nan; it must be above 0"),
        ({"plain": -1}, "plain is -1; it must be 0 or more"),
    ],
)
def test_what_is_out_of_bounds_is_named_with_its_bounds(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(WrongUsage, match=f"^{told}$"):
        Wanted(**wrong)  # type: ignore[arg-type]


def test_the_flags_stand_where_the_command_takes_the_options() -> None:
    app, seen = typer.Typer(), []

    @app.command()
    @from_options(Wanted)
    def want(
        path: Annotated[str, typer.Argument()],
        *,
        first: Annotated[bool, typer.Option("--first")] = False,
        wanted: Wanted,
        last: Annotated[bool, typer.Option("--last")] = False,
    ) -> None:
        seen.append((path, first, wanted, last))

    CliRunner().invoke(app, ["here", "--many", "3", "--last"])
    assert seen == [("here", False, Wanted(count=3), True)]
    told = CliRunner().invoke(app, ["--help"]).output
    assert told.index("--first") < told.index("--many") < told.index("--last")


def test_a_flag_out_of_bounds_is_wrong_usage() -> None:
    _, _, refusal = run("--many", "0")
    assert isinstance(refusal, WrongUsage)
