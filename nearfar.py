"""The command: mounts each room's commands, and turns every error into one line."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

import cloud.cli
import edge.cli
import offload.cli
from backbone.errors import NearfarError

app = typer.Typer(
    name="nearfar",
    help="Run a language model near, and ask one far away only when that pays.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.add_typer(edge.cli.app)
app.add_typer(edge.cli.models_app, name="models")
app.add_typer(edge.cli.bench_app, name="bench")
app.add_typer(offload.cli.link_app, name="link")
app.add_typer(cloud.cli.app, name="cloud")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nearfar {version('nearfar')}")
        raise typer.Exit


@app.callback()
def nearfar(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Run a language model near, and ask one far away only when that pays."""


def main() -> None:
    """Run the command; a NearfarError becomes one line and exit status 1."""
    try:
        app()
    except NearfarError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": str(error)}))
        print(f"nearfar: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
