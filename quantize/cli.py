"""The commands that prepare models: gguf, smooth-keys, importance, gptq, bnb, plan, report."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.declared_options import from_options
from backbone.errors import WrongUsage, as_typed
from quantize.report_cli import Force, Json, Source, Threads, plan, report
from quantize.terminal import megabytes, progress_bar, require_free, require_torch, show
from quantize.text_samples import Sample

if TYPE_CHECKING:
    from quantize.gptq import GptqOptions
    from quantize.gptq_folder import GptqResult

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

app = typer.Typer(help="Prepare models: int4 and int8 in every format.", no_args_is_help=True)

Device = Annotated[str, typer.Option("--device", help="Where torch computes: cpu or cuda.")]


@app.command("gguf")
def to_gguf(
    source: Annotated[Path, typer.Argument(help="A Hugging Face folder, or a GGUF file.")],
    target: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    kind: Annotated[str, typer.Option("--type", help="q4_k_m, q8_0, f16, ...")] = "q4_k_m",
    importance: Annotated[
        Path | None, typer.Option("--importance", help="An importance matrix (.dat or .gguf).")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="PATTERN=TYPE gives matching tensors their own type."),
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Take a source that is quantized already.")
    ] = False,
    threads: Threads = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a model to GGUF, in full precision or quantized."""
    require_free(target, force=force)
    from quantize.gguf import convert
    from quantize.importance import load_importance

    with progress_bar("converting") as progress:
        done = convert(
            source,
            target,
            kind=kind,
            overrides=dict(_pattern_and_type(rule) for rule in keep or []),
            importance=load_importance(importance).values if importance else None,
            allow_requantize=allow_requantize,
            num_threads=threads,
            progress=progress,
        )
    counts = Counter(done.tensor_types.values())
    types = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    lines = [
        f"{done.path}: {megabytes(done.size_bytes)}, {done.bits_per_weight:.2f} bits per weight",
        f"tensors: {types}",
        *(f"note: {note}" for note in done.notes),
    ]
    show(asdict(done), lines, as_json=as_json)


def _pattern_and_type(rule: str) -> tuple[str, str]:
    pattern, equals, name = rule.rpartition("=")
    if not (equals and pattern and name):
        raise WrongUsage(f"--keep {rule!r} is not PATTERN=TYPE; write it like ffn_down=q8_0")
    return pattern, name


@app.command("smooth-keys")
def smooth(
    source: Annotated[Path, typer.Argument(help="A GGUF file of a model with key biases (Qwen2).")],
    target: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Even out key channels, so that a compressed KV cache loses less; exact in f16."""
    require_free(target, force=force)
    from quantize.smooth_keys import smooth_keys

    done = smooth_keys(source, target)
    lines = [
        f"{done.path}: {megabytes(done.size_bytes)}, {done.num_smoothed} of {done.num_pairs} pairs "
        f"of key channels smoothed; the largest bias was {done.largest_before:.1f} and is "
        f"{done.largest_after:.1f}",
        f"try it: nearfar bench edge --kv -m {done.path}",
    ]
    show(asdict(done), lines, as_json=as_json)


@app.command()
@from_options(Sample)
def importance(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The file to write: .gguf, or .dat (older).")],
    *,
    sample: Sample,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure what each matrix is fed, for llama.cpp's quantizer."""
    require_free(target, force=force)
    require_torch()
    from quantize.measure_importance import measure_importance

    options = sample.options()
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar("blocks") as progress:
        found = measure_importance(
            source,
            sample.text(),
            options=options,
            device=device,
            progress=progress,
            state_file=target.with_name(f".{target.name}.state"),
        )
    found.save(target)
    tokens = found.num_windows * found.window_len
    document = {"path": target, "num_matrices": len(found.values), "num_tokens": tokens}
    show(document, [f"{target}: {len(found.values)} matrices, {tokens:,} tokens"], as_json=as_json)


@app.command()
@from_options(Sample)
def gptq(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    *,
    bits: Annotated[int, typer.Option("--bits", help="4 or 8.")] = 4,
    group_size: Annotated[
        int, typer.Option("--group-size", help="Inputs that share a scale; -1: a whole row.")
    ] = 128,
    desc_act: Annotated[
        bool, typer.Option("--desc-act", help="Round the most active columns first.")
    ] = False,
    sym: Annotated[
        bool,
        typer.Option("--sym/--asym", help="Ranges around zero, or not: nearer, in as many bytes."),
    ] = True,
    damping: Annotated[
        float,
        typer.Option("--damping", help="How little the calibration text is relied on, 0 to 1."),
    ] = 0.2,
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
    sample: Sample,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Quantize by GPTQ into AutoGPTQ's checkpoint format."""
    require_torch()
    from quantize.gptq import GptqOptions
    from quantize.gptq_folder import quantize_gptq

    with as_typed():
        options = GptqOptions(
            bits=bits,
            group_size=group_size,
            desc_act=desc_act,
            sym=sym,
            damping=damping,
            checkpoint_format={1: "gptq", 2: "gptq_v2"}.get(version, str(version)),
        )
    calibration = sample.options()
    if solver not in ("nearfar", "gptqmodel"):
        raise WrongUsage(f"unknown solver {solver!r}; use nearfar or gptqmodel")
    if solver == "gptqmodel":
        from quantize.gptqmodel_solver import quantize_with_gptqmodel

        path = quantize_with_gptqmodel(
            source, target, options=options, text=sample.text(), calibration=calibration
        )
        show({"path": path}, [f"{path}: written by GPTQModel"], as_json=as_json)
        return
    with progress_bar("blocks") as progress:
        done = quantize_gptq(
            source,
            target,
            options=options,
            text=sample.text(),
            calibration=calibration,
            device=device,
            store_tied_head=for_auto_gptq,
            progress=progress,
        )
    show(asdict(done), _gptq_lines(done, options), as_json=as_json)


def _gptq_lines(done: GptqResult, options: GptqOptions) -> list[str]:
    worst = max(done.matrices, key=lambda m: m.error)
    damped = [m for m in done.matrices if m.damping > options.damping]
    smaller = done.group_size != options.group_size
    return [
        f"{done.path}: {megabytes(done.size_bytes)}",
        f"worst matrix: {worst.name}, {worst.error:.2%} of its output's energy is wrong",
        *(
            [f"note: groups of {done.group_size}, since {options.group_size} divides not every row"]
            if smaller
            else []
        ),
        *(f"note: {m.name} needed damping {m.damping:g}" for m in damped),
        *(f"note: {m.name} has {m.num_dead} silent inputs" for m in done.matrices if m.num_dead),
    ]


@app.command()
def bnb(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    kind: Annotated[str, typer.Option("--type", help="nf4, fp4 or int8.")] = "nf4",
    as_json: Json = False,
) -> None:
    """Quantize with bitsandbytes into a folder that transformers loads."""
    require_torch()
    from quantize.bnb import quantize_bnb

    done = quantize_bnb(source, target, kind=kind)
    show(asdict(done), [f"{done.path}: {megabytes(done.size_bytes)}, {kind}"], as_json=as_json)


app.command()(plan)
app.command()(report)
