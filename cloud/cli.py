"""The server's commands: serve, memory, bench."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.usage_errors import as_typed
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
        shelf: Annotated[
            str | None,
            typer.Option(help="A folder of model folders: each is loaded when it is asked for."),
        ] = None,
        max_loaded: Annotated[
            int, typer.Option(help="How many models of --shelf may be in memory.")
        ] = 1,
        replicas: Annotated[
            int, typer.Option(help="Engine processes; with --device cuda each has a GPU.")
        ] = 1,
        tensor_parallel_size: Annotated[
            int, typer.Option(help="Processes that share one model; with --device cuda one a GPU.")
        ] = 1,
        balance: Annotated[
            str,
            typer.Option(
                help="Who answers: prefix-aware, power-of-two, least-connections, round-robin, "
                "weighted or load-aware."
            ),
        ] = "prefix-aware",
        replica_weights: Annotated[
            str, typer.Option(help="The replicas' shares, as 2,1,1, for weighted and load-aware.")
        ] = "",
        gpus: Annotated[
            str,
            typer.Option(help="Which GPU each replica sees, as 0,2; the first ones unless set."),
        ] = "",
        cores: Annotated[
            str, typer.Option(help="Which cores each replica runs on: 0-3,4-7, or auto.")
        ] = "",
        device: Annotated[str, typer.Option(help="cuda, cpu, or auto.")] = "auto",
        max_model_len: Annotated[
            int, typer.Option(help="The longest context in tokens; 0 is the model's own.")
        ] = 0,
        engine: Annotated[
            list[str] | None,
            typer.Option(help="An option of the engine, as kv_cache_dtype=int8; may be repeated."),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the address and keys as one JSON line.")
        ] = False,
    ) -> None:
        """Answer devices over the link until stopped, and OpenAI clients with --http."""
        from cloud.endpoint import EndpointOptions
        from cloud.endpoint import serve as run

        with as_typed():
            options = EndpointOptions(
                model=model,
                bind=bind,
                device=device,
                max_model_len=max_model_len,
                http=http,
                upstream=upstream,
                upstream_model=upstream_model,
                shelf=shelf,
                max_loaded=max_loaded,
                num_replicas=replicas,
                tensor_parallel_size=tensor_parallel_size,
                balance=balance,
                replica_weights=replica_weights,
                gpus=gpus,
                cores=cores,
                engine=tuple(engine or ()),
                as_json=as_json,
            )
        run(options, open_http=open_http)

    app.command()(bench)
    return app


def bench(
    base_url: Annotated[str, typer.Option(help="Any OpenAI-compatible server, as http://.../v1.")],
    model: Annotated[str, typer.Option(help="Which of its models.")] = "auto",
    num_prompts: Annotated[int, typer.Option(help="How many requests.")] = 100,
    request_rate: Annotated[float, typer.Option(help="Requests a second; inf is all at once.")] = (
        float("inf")
    ),
    burstiness: Annotated[
        float, typer.Option(help="1 is a Poisson process; less comes in bursts.")
    ] = 1.0,
    max_concurrency: Annotated[int, typer.Option(help="At most so many at once; 0 is any.")] = 0,
    num_warmups: Annotated[int, typer.Option(help="Requests before the clock starts.")] = 1,
    output_len: Annotated[int, typer.Option(help="Tokens of each answer, at the most.")] = 64,
    metric_percentiles: Annotated[str, typer.Option(help="Which percentiles.")] = "50,90,99",
    goodput: Annotated[
        list[str] | None, typer.Option(help="A bound in ms, as ttft:500; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
    result_file: Annotated[Path | None, typer.Option(help="Write the report there too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Put a server under load: TTFT, TPOT, end-to-end, throughput, goodput.

    The key, if one is needed, is taken from NEARFAR_CLOUD_API_KEY.
    """
    from cloud.bench.command import bench as run
    from cloud.bench.options import LoadOptions, read_goodput, read_percentiles

    with as_typed():
        options = LoadOptions(
            base_url=base_url,
            model=model,
            num_prompts=num_prompts,
            request_rate=request_rate,
            burstiness=burstiness,
            max_concurrency=max_concurrency,
            num_warmups=num_warmups,
            output_len=output_len,
            metric_percentiles=read_percentiles(metric_percentiles),
            goodput=read_goodput(goodput or []),
            seed=seed,
            api_key=os.environ.get("NEARFAR_CLOUD_API_KEY", ""),
        )
    run(options, result=result_file, as_json=as_json)


def cloud() -> None:
    """The far side: a GPU server of your own."""
