"""The commands of the far side: serve, memory, batch, bench."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.declared_options import from_options
from backbone.errors import MissingExtra, as_typed
from backbone.terminal_text import echo, echo_json
from cloud.batch_job import BatchOptions
from cloud.bench.load_options import LoadOptions
from cloud.endpoint_options import EndpointOptions
from offload.config.places import places
from offload.pair import CLOUD_MODEL

if TYPE_CHECKING:
    from cloud.endpoint import OpenHttp
    from engine.torch.memory import MemoryPlan


def build(open_http: OpenHttp | None = None) -> typer.Typer:
    """Return the commands; `open_http` is how `serve` opens its HTTP face."""
    app = typer.Typer(help="The far side: a GPU server of your own.", no_args_is_help=True)
    app.callback()(cloud)
    app.command()(memory)

    @app.command()
    @from_options(EndpointOptions)
    def serve(options: EndpointOptions) -> None:
        """Answer devices over the link until stopped, and OpenAI clients with --http."""
        from cloud.endpoint import serve as run

        run(options, open_http=open_http)

    app.command()(batch)
    app.command()(bench)
    return app


@from_options(BatchOptions)
def batch(
    file: Annotated[Path, typer.Argument(help="Requests, one a line, in OpenAI's form.")],
    options: BatchOptions,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Have a file of requests answered in the time that readers leave.

    The endpoint keeps the job: started again with the same file, this waits for it and fetches the
    answers. The key, if one is needed, is taken from NEARFAR_CLOUD_API_KEY.
    """
    from cloud.batch_job import run_batch

    api_key = os.environ.get("NEARFAR_CLOUD_API_KEY", "")
    done = run_batch(
        file, replace(options, api_key=api_key), tell=lambda line: echo(line, err=True)
    )
    if as_json:
        told = {"output": str(done.output), "answered": done.answered, "failed": done.failed}
        echo_json(json.dumps(told))
        return
    echo(f"{done.output}: {done.answered} answered, {done.failed} failed")


@from_options(LoadOptions)
def bench(
    options: LoadOptions,
    *,
    result_file: Annotated[Path | None, typer.Option(help="Write the report there too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Put a server under load: TTFT, TPOT, end-to-end, throughput, goodput.

    The key, if one is needed, is taken from NEARFAR_CLOUD_API_KEY.
    """
    from cloud.bench.report import bench as run

    api_key = os.environ.get("NEARFAR_CLOUD_API_KEY", "")
    run(replace(options, api_key=api_key), result=result_file, as_json=as_json)


def memory(
    model: Annotated[
        Path | None,
        typer.Argument(help="A Hugging Face folder or GGUF file; the embedded one without."),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, cpu, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto.")] = "auto",
    max_model_len: Annotated[
        int, typer.Option(help="The context length in tokens; 0 is the model's own.")
    ] = 0,
    max_num_seqs: Annotated[int, typer.Option(help="Answers that run at the same time.")] = 128,
    kv_cache_dtype: Annotated[
        str, typer.Option(help="Of the KV cache: int8, fp8, or auto for that of the weights.")
    ] = "auto",
    gpu_memory_utilization: Annotated[
        float, typer.Option(help="How much of the GPU may be taken, from 0 to 1.")
    ] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Predict what a model takes: weights, cache, activations, and how many answers fit."""
    try:
        from engine.engine_choice import CHOICES_FILE
        from engine.torch.auto_choice import settled
        from engine.torch.memory import plan_memory
        from engine.torch.options import EngineOptions
        from quantize.model_files import model_files
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    with as_typed():
        options = EngineOptions(
            device=device,
            dtype=dtype,  # type: ignore[arg-type]  # checked by the options themselves
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            gpu_memory_utilization=gpu_memory_utilization,
            kv_cache_dtype=kv_cache_dtype,  # type: ignore[arg-type]  # checked by the options
        )
    path = model or CLOUD_MODEL
    options, choice = settled(model_files(path), options, places().cache / CHOICES_FILE)
    plan = plan_memory(path, options)
    if as_json:
        echo(json.dumps(plan.as_json() | {"auto": str(choice)}))
    else:
        echo(f"{_in_words(plan)}\nauto         {choice}")


def _in_words(plan: MemoryPlan) -> str:
    verdict = "fits" if plan.fits else "does not fit"
    return "\n".join(
        (
            f"weights      {_size(plan.weight_bytes)}",
            f"activations  {_size(plan.activation_bytes)}, at the peak of the largest step",
            f"KV cache     {_size(plan.kv_bytes)}, {_size(plan.kv_bytes_per_token)} a token",
            f"together     {_size(plan.total_bytes)} of {_size(plan.usable_bytes)}: {verdict}",
            f"at once      {plan.largest_batch} answers of {plan.max_model_len} tokens each",
        )
    )


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def cloud() -> None:
    """The far side: a GPU server of your own."""
