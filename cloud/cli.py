"""The server's commands: serve."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="The far side: a GPU server of your own.", no_args_is_help=True)


@app.callback()
def cloud() -> None:
    """The far side: a GPU server of your own."""


@app.command()
def serve(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A Hugging Face folder; the embedded one without."),
    ] = None,
    bind: Annotated[
        str, typer.Option(help="Where to listen; CURVE guards it, on loopback too.")
    ] = "tcp://127.0.0.1:7070",
    device: Annotated[str, typer.Option(help="cuda, cpu, or auto.")] = "auto",
    max_model_len: Annotated[
        int, typer.Option(help="The longest context in tokens; 0 is the model's own.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address and keys as one JSON line.")
    ] = False,
) -> None:
    """Answer devices over the link until stopped."""
    from cloud.endpoint import serve as run

    run(model=model, bind=bind, device=device, max_model_len=max_model_len, as_json=as_json)
