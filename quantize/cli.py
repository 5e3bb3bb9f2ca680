"""The commands that prepare models: gguf, gptq, bnb, importance, plan, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

app = typer.Typer(help="Prepare models: int4 and int8 in every format.", no_args_is_help=True)

Source = Annotated[Path, typer.Argument(help="A Hugging Face folder in full precision.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Text = Annotated[
    Path | None,
    typer.Option("--text", help="Calibration text (UTF-8); without it, the embedded one."),
]
Windows = Annotated[int, typer.Option("--windows", help="How many windows of text are used.")]
WindowLen = Annotated[int, typer.Option("--window", help="The tokens of one window.")]
Seed = Annotated[int, typer.Option("--seed", help="Which windows of the text are drawn.")]
Special = Annotated[
    bool, typer.Option("--parse-special", help="Control tokens spelled in the text are meant.")
]
Threads = Annotated[int, typer.Option("--threads", help="Processor threads; 0 takes all.")]
Device = Annotated[str, typer.Option("--device", help="Where torch computes: cpu or cuda.")]
Importance = Annotated[
    Path | None, typer.Option("--importance", help="An importance matrix (.dat or .gguf).")
]


@app.command("gguf")
def to_gguf(
    source: Annotated[Path, typer.Argument(help="A Hugging Face folder, or a GGUF file.")],
    target: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    kind: Annotated[str, typer.Option("--type", help="q4_k_m, q8_0, f16, ...")] = "q4_k_m",
    importance: Importance = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="PATTERN=TYPE gives matching tensors their own type."),
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Take a source that is quantized already.")
    ] = False,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Convert a model to GGUF, in full precision or quantized."""
    from quantize.commands import run_gguf

    run_gguf(
        source,
        target,
        kind=kind,
        importance=importance,
        keep=keep or [],
        allow_requantize=allow_requantize,
        threads=threads,
        as_json=as_json,
    )


@app.command("smooth-keys")
def smooth(
    source: Annotated[Path, typer.Argument(help="A GGUF file of a model with key biases (Qwen2).")],
    target: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    as_json: Json = False,
) -> None:
    """Even out key channels, so that a compressed KV cache loses less; exact in f16."""
    from quantize.commands import run_smooth_keys

    run_smooth_keys(source, target, as_json=as_json)


@app.command()
def importance(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The file to write: .gguf, or .dat (older).")],
    text: Text = None,
    windows: Windows = 64,
    window: WindowLen = 512,
    parse_special: Special = False,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Measure what each matrix is fed, for llama.cpp's quantizer."""
    from quantize.commands import run_importance
    from quantize.text_samples import Sample

    run_importance(
        source,
        target,
        sample=Sample(text, windows, window, parse_special, seed),
        device=device,
        as_json=as_json,
    )


@app.command()
def gptq(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    bits: Annotated[int, typer.Option("--bits", help="4 or 8.")] = 4,
    group_size: Annotated[
        int, typer.Option("--group-size", help="Inputs that share a scale; -1: a whole row.")
    ] = 128,
    desc_act: Annotated[
        bool, typer.Option("--desc-act", help="Round the most active columns first.")
    ] = False,
    sym: Annotated[bool, typer.Option("--sym/--asym", help="Ranges around zero, or not.")] = True,
    version: Annotated[
        int, typer.Option("--format-version", help="1 for all loaders, 2 for GPTQModel's own.")
    ] = 1,
    for_auto_gptq: Annotated[
        bool,
        typer.Option("--for-auto-gptq", help="Store a tied output layer too; auto-gptq needs it."),
    ] = False,
    solver: Annotated[
        str, typer.Option("--solver", help="nearfar, or gptqmodel where it is installed.")
    ] = "nearfar",
    text: Text = None,
    windows: Windows = 64,
    window: WindowLen = 512,
    parse_special: Special = False,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Quantize by GPTQ into AutoGPTQ's checkpoint format."""
    from quantize.commands import run_gptq
    from quantize.text_samples import Sample

    run_gptq(
        source,
        target,
        bits=bits,
        group_size=group_size,
        desc_act=desc_act,
        sym=sym,
        version=version,
        store_tied_head=for_auto_gptq,
        solver=solver,
        sample=Sample(text, windows, window, parse_special, seed),
        device=device,
        as_json=as_json,
    )


@app.command()
def bnb(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    kind: Annotated[str, typer.Option("--type", help="nf4, fp4 or int8.")] = "nf4",
    as_json: Json = False,
) -> None:
    """Quantize with bitsandbytes into a folder that transformers loads."""
    from quantize.commands import run_bnb

    run_bnb(source, target, kind=kind, as_json=as_json)


@app.command()
def plan(
    source: Source,
    target: Annotated[
        Path | None, typer.Argument(help="The GGUF file to write; without it, only the plan.")
    ] = None,
    target_bytes: Annotated[
        str | None, typer.Option("--target-bytes", help="The file's size, like 400MB.")
    ] = None,
    target_bpw: Annotated[
        float | None, typer.Option("--target-bpw", help="Bits per weight, like 4.5.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="What this device's free memory holds.")
    ] = False,
    context: Annotated[
        int, typer.Option("--context", help="With --fit: tokens of context, or of its window.")
    ] = 4096,
    kv_bits: Annotated[
        float, typer.Option("--kv-bits", help="With --fit: bits per cached number.")
    ] = 8.5,
    types: Annotated[
        str | None, typer.Option("--types", help="Only these types, like q3_k,q4_k,q6_k.")
    ] = None,
    text: Text = None,
    windows: Windows = 64,
    window: WindowLen = 512,
    parse_special: Special = False,
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep measurements here, to go on or to reuse.")
    ] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Choose a type for every matrix, so that the file fits and the answers change least."""
    from quantize.report_commands import run_plan
    from quantize.text_samples import Sample

    run_plan(
        source,
        target,
        target_bytes=target_bytes,
        target_bpw=target_bpw,
        fit=fit,
        context=context,
        kv_bits=kv_bits,
        types=types,
        sample=Sample(text, windows, window, parse_special),
        state=state,
        threads=threads,
        as_json=as_json,
    )


@app.command()
def report(
    models: Annotated[list[Path], typer.Argument(help="GGUF files and quantized folders.")],
    reference: Annotated[
        Path, typer.Option("--reference", help="The full-precision Hugging Face folder.")
    ],
    text: Annotated[Path, typer.Option("--text", help="The text to score, not calibrated on.")],
    windows: Windows = 32,
    window: WindowLen = 512,
    parse_special: Special = False,
    threads: Threads = 0,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Write size against divergence as SVG.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep finished rows here, to go on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare quantized models with the original: size, perplexity, divergence, agreement."""
    from quantize.report_commands import run_report
    from quantize.text_samples import Sample

    run_report(
        models,
        reference=reference,
        sample=Sample(text, windows, window, parse_special),
        threads=threads,
        picture=picture,
        state=state,
        as_json=as_json,
    )
