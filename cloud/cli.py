"""The server's commands: serve, memory, bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloud.memory_command import memory

if TYPE_CHECKING:
    from cloud.endpoint import OpenHttp


def build(open_http: OpenHttp | None = None) -> typer.Typer:
    """Return the commands; `open_http` is how `serve` opens its HTTP face."""
    app = typer.Typer(help="The far side: a GPU server of your own.", no_args_is_help=True)
    app.callback()(cloud)
    app.command()(memory)

    @app.command()
    def serve(
        model: Annotated[
            str | None,
            typer.Option("--model", "-m", help="A Hugging Face folder; the embedded one without."),
        ] = None,
        bind: Annotated[
            str, typer.Option(help="Where to listen; CURVE guards it, on loopback too.")
        ] = "tcp://127.0.0.1:7070",
        http: Annotated[
            str | None, typer.Option(help="HOST:PORT for OpenAI clients too, from the same engine.")
        ] = None,
        upstream: Annotated[
            str | None,
            typer.Option(
                help="An OpenAI-compatible server to stand in front of, as http://.../v1."
            ),
        ] = None,
        upstream_model: Annotated[
            str, typer.Option(help="Which of its models; the first it lists unless set.")
        ] = "",
        device: Annotated[str, typer.Option(help="cuda, cpu, or auto.")] = "auto",
        max_model_len: Annotated[
            int, typer.Option(help="The longest context in tokens; 0 is the model's own.")
        ] = 0,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the address and keys as one JSON line.")
        ] = False,
    ) -> None:
        """Answer devices over the link until stopped, and OpenAI clients with --http."""
        from cloud.endpoint import EndpointOptions
        from cloud.endpoint import serve as run

        options = EndpointOptions(
            model=model,
            bind=bind,
            device=device,
            max_model_len=max_model_len,
            http=http,
            upstream=upstream,
            upstream_model=upstream_model,
            as_json=as_json,
        )
        run(options, open_http=open_http)

    return app


def cloud() -> None:
    """The far side: a GPU server of your own."""
