"""The commands that measure: plan chooses types by sensitivity, report compares models."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.declared_options import from_options
from backbone.errors import NearfarError, WrongUsage, as_typed
from backbone.files import require_outputs
from quantize.terminal import megabytes, progress_bar, require_free, require_torch, show
from quantize.text_samples import ParseSpecial, Sample, WindowLen, Windows, read_text

if TYPE_CHECKING:
    from quantize.plan import TypePlan
    from quantize.report import QuantizationReport

Source = Annotated[Path, typer.Argument(help="A Hugging Face folder in full precision.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there already.")]
Threads = Annotated[int, typer.Option("--threads", help="Processor threads; 0 takes all.")]


@from_options(Sample)
def plan(
    source: Source,
    target: Annotated[
        Path | None, typer.Argument(help="The GGUF file to write; without it, only the plan.")
    ] = None,
    *,
    target_bytes: Annotated[
        str | None, typer.Option("--target-bytes", help="The file's size, like 400MB.")
    ] = None,
    target_bpw: Annotated[
        float | None, typer.Option("--target-bpw", help="Bits per weight, like 4.5.")
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Plan for this device's free memory.")] = False,
    context: Annotated[
        int, typer.Option("--context", help="With --fit: tokens of context, or of its window.")
    ] = 4096,
    kv_bits: Annotated[
        float, typer.Option("--kv-bits", help="With --fit: bits per cached number.")
    ] = 8.5,
    types: Annotated[
        str | None, typer.Option("--types", help="Only these types, like q3_k,q4_k,q6_k.")
    ] = None,
    sample: Sample,
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep measurements here, to reuse them.")
    ] = None,
    threads: Threads = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Choose a type for every matrix, so that the file fits and the answers change least."""
    require_torch()
    require_free(target, force=force)
    require_outputs(state)
    if sum((target_bytes is not None, target_bpw is not None, fit)) != 1:
        raise WrongUsage("give exactly one budget: --target-bytes, --target-bpw or --fit")
    if target_bpw is not None and target_bpw <= 0:
        raise WrongUsage(f"--target-bpw is {target_bpw:g}; it must be above 0, for example 4.5")
    from quantize.measure_importance import measure_importance
    from quantize.plan import budget_for_bpw, convert_by_plan, make_plan, parse_bytes
    from quantize.sensitivity import SensitivityOptions, measure_sensitivity

    budget = parse_bytes(target_bytes) if target_bytes is not None else 0
    named = _types(types)
    if fit:
        budget = _free_budget(source, context_len=context, kv_bits=kv_bits)
    text, whole = sample.text(), sample.options()
    with progress_bar("importance") as progress:
        importance = measure_importance(source, text, options=whole, progress=progress).values
    with progress_bar("sensitivity") as progress:
        found = measure_sensitivity(
            source,
            text,
            importance=importance,
            options=SensitivityOptions(types=named, text=sample.part()),
            cache=state,
            progress=progress,
        )
    if target_bpw is not None:
        budget = budget_for_bpw(found, target_bpw)
    chosen = make_plan(found, budget)
    size = chosen.size_bytes
    if target is not None:
        done = convert_by_plan(source, target, chosen, importance=importance, num_threads=threads)
        size = done.size_bytes
    document = {**asdict(chosen), "budget_bytes": budget, "path": target, "file_bytes": size}
    lines = _plan_lines(chosen, found.kld, f"{megabytes(size)} of {megabytes(budget)}")
    lines += [f"{target}: {megabytes(size)}"] if target else []
    show(document, lines, as_json=as_json)


def _free_budget(source: Path, *, context_len: int, kv_bits: float) -> int:
    from backbone.process_limits import free_memory_bytes
    from quantize.plan import budget_for_memory
    from quantize.weights import read_config

    return budget_for_memory(
        read_config(source), free_memory_bytes(), context_len=context_len, kv_bits=kv_bits
    )


def _plan_lines(chosen: TypePlan, kld: Mapping[str, Mapping[str, float]], sizes: str) -> list[str]:
    counts = Counter(chosen.types.values())
    types = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return [
        *(
            f"{name:28} {kind:8} expected divergence {kld[name][kind]:.2e}"
            for name, kind in sorted(chosen.types.items())
        ),
        f"{types}; {chosen.bits_per_weight:.2f} bits per weight, {sizes}, "
        f"expected divergence {chosen.predicted_kld:.2e} nats",
    ]


def _types(names: str | None) -> tuple[str, ...]:
    from quantize.llama_quantizer import tensor_type
    from quantize.sensitivity import TYPES

    found = tuple(name.strip().lower() for name in names.split(",")) if names else TYPES
    for name in found:
        tensor_type(name)  # names an unknown one
    return found


def report(
    models: Annotated[list[Path], typer.Argument(help="GGUF files and quantized folders.")],
    reference: Annotated[
        Path, typer.Option("--reference", help="The full-precision Hugging Face folder.")
    ],
    text: Annotated[Path, typer.Option("--text", help="The text to score, not calibrated on.")],
    windows: Windows = 32,
    window: WindowLen = 512,
    parse_special: ParseSpecial = False,
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
    require_torch()
    from quantize.pareto_plot import write_picture
    from quantize.report import ReportOptions, make_report

    with as_typed():
        options = ReportOptions(
            num_windows=windows,
            window_len=window,
            num_threads=threads or os.cpu_count() or 1,
            parse_special=parse_special,
        )
    require_outputs(picture, state)
    with progress_bar("models") as progress:
        done = make_report(
            models,
            reference,
            read_text(text),
            options=options,
            cache=state,
            progress=progress,
        )
    if picture is not None:
        write_picture(done, picture)
    show(done.to_json(), _table(done), as_json=as_json)
    if done.failed:
        raise NearfarError(" · ".join(done.failed))


def _table(report: QuantizationReport) -> list[str]:
    head = (
        f"{'model':32} {'size':>10} {'bits':>6} {'perplexity':>11} {'change':>8} "
        f"{'KLD':>9} {'99.9%':>9} {'top 1':>7} {'tok/s':>8} {'memory':>10} {'load':>7}"
    )
    rows = [
        f"{Path(r.model).name[-32:]:32} {megabytes(r.size_bytes):>10} {r.bits_per_weight:6.2f} "
        f"{r.perplexity:11.4f} {r.perplexity_change:+8.2%} {r.mean_kld:9.2e} {r.kld_999:9.2e} "
        f"{r.top1_agreement:7.2%} {r.tokens_per_s:8.0f} {megabytes(r.memory_bytes):>10} "
        f"{r.load_s:6.2f}s"
        for r in report.rows
    ]
    foot = (
        f"against {Path(report.reference).name}: {megabytes(report.reference_bytes)}, "
        f"perplexity {report.reference_perplexity:.4f}, {report.num_positions:,} positions"
    )
    return [head, *rows, foot]
