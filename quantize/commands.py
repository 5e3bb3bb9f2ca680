"""What each command does: options in, one call into the room, a few lines or one document out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbone.errors import MissingExtra, NearfarError
from quantize.gguf import convert
from quantize.importance import load_importance
from quantize.terminal import megabytes, progress_bar, show, text_of


def run_gguf(
    source: Path,
    target: Path,
    *,
    kind: str,
    importance: Path | None,
    keep: list[str],
    allow_requantize: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Convert, and say what came out."""
    with progress_bar("converting") as progress:
        done = convert(
            source,
            target,
            kind=kind,
            overrides=dict(_pattern_and_type(rule) for rule in keep),
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
        raise NearfarError(f"--keep {rule!r} is not PATTERN=TYPE; write it like ffn_down=q8_0")
    return pattern, name


def run_importance(
    source: Path,
    target: Path,
    *,
    text: Path | None,
    windows: int,
    window: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure, and save in llama.cpp's format."""
    _require_torch()
    from quantize.calibration import CalibrationOptions
    from quantize.measure_importance import measure_importance

    options = CalibrationOptions(num_windows=windows, window_len=window, seed=seed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar("blocks") as progress:
        found = measure_importance(
            source,
            text_of(text),
            options=options,
            device=device,
            progress=progress,
            state_file=target.with_name(f".{target.name}.state"),
        )
    found.save(target)
    tokens = found.num_windows * found.window_len
    document = {"path": target, "num_matrices": len(found.values), "num_tokens": tokens}
    show(document, [f"{target}: {len(found.values)} matrices, {tokens:,} tokens"], as_json=as_json)


def run_gptq(
    source: Path,
    target: Path,
    *,
    bits: int,
    group_size: int,
    desc_act: bool,
    sym: bool,
    version: int,
    solver: str,
    text: Path | None,
    windows: int,
    window: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Quantize by GPTQ, and say how near it came."""
    _require_torch()
    from quantize.calibration import CalibrationOptions
    from quantize.gptq import GptqOptions
    from quantize.gptq_folder import quantize_gptq

    options = GptqOptions(
        bits=bits,
        group_size=group_size,
        desc_act=desc_act,
        sym=sym,
        checkpoint_format={1: "gptq", 2: "gptq_v2"}.get(version, str(version)),
    )
    calibration = CalibrationOptions(num_windows=windows, window_len=window, seed=seed)
    if solver not in ("nearfar", "gptqmodel"):
        raise NearfarError(f"unknown solver {solver!r}; use nearfar or gptqmodel")
    if solver == "gptqmodel":
        from quantize.gptqmodel_solver import quantize_with_gptqmodel

        path = quantize_with_gptqmodel(
            source, target, options=options, text=text_of(text), calibration=calibration
        )
        show({"path": path}, [f"{path}: written by GPTQModel"], as_json=as_json)
        return
    with progress_bar("blocks") as progress:
        done = quantize_gptq(
            source,
            target,
            options=options,
            text=text_of(text),
            calibration=calibration,
            device=device,
            progress=progress,
        )
    worst = max(done.matrices, key=lambda m: m.error)
    damped = [m for m in done.matrices if m.damping > options.damping]
    lines = [
        f"{done.path}: {megabytes(done.size_bytes)}",
        f"worst matrix: {worst.name}, {worst.error:.2%} of its output's energy is wrong",
        *(f"note: {m.name} needed damping {m.damping:g}" for m in damped),
        *(f"note: {m.name} has {m.num_dead} silent inputs" for m in done.matrices if m.num_dead),
    ]
    show(asdict(done), lines, as_json=as_json)


def run_bnb(source: Path, target: Path, *, kind: str, as_json: bool) -> None:
    """Quantize with bitsandbytes."""
    _require_torch()
    from quantize.bnb import quantize_bnb

    done = quantize_bnb(source, target, kind=kind)
    show(asdict(done), [f"{done.path}: {megabytes(done.size_bytes)}, {kind}"], as_json=as_json)


def run_plan(
    source: Path,
    target: Path | None,
    *,
    target_bytes: str | None,
    target_bpw: float | None,
    fit: bool,
    context: int,
    kv_bits: float,
    text: Path | None,
    windows: int,
    window: int,
    state: Path | None,
    threads: int,
    as_json: bool,
) -> None:
    """Measure, choose, and write the file where one is named."""
    _require_torch()
    if sum((target_bytes is not None, target_bpw is not None, fit)) != 1:
        raise NearfarError("give exactly one of --target-bytes, --target-bpw and --fit")
    from quantize.calibration import CalibrationOptions
    from quantize.measure_importance import measure_importance
    from quantize.plan import (
        budget_for_bpw,
        budget_for_memory,
        convert_by_plan,
        make_plan,
        parse_bytes,
    )
    from quantize.sensitivity import SensitivityOptions, measure_sensitivity
    from quantize.weights import read_config

    budget = parse_bytes(target_bytes) if target_bytes is not None else 0
    if fit:
        import psutil

        free = psutil.virtual_memory().available
        budget = budget_for_memory(read_config(source), free, context_len=context, kv_bits=kv_bits)
    written = text_of(text)
    whole = CalibrationOptions(num_windows=windows, window_len=window)
    # Divergence is measured many times over, so on less text, and other windows of it.
    part = CalibrationOptions(
        num_windows=max(1, windows // 8), window_len=min(window, 256), seed=17
    )
    with progress_bar("importance") as progress:
        importance = measure_importance(source, written, options=whole, progress=progress).values
    with progress_bar("sensitivity") as progress:
        found = measure_sensitivity(
            source,
            written,
            importance=importance,
            options=SensitivityOptions(text=part),
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
    counts = Counter(chosen.types.values())
    lines = [
        f"{name:28} {kind:8} expected divergence {found.kld[name][kind]:.2e}"
        for name, kind in sorted(chosen.types.items())
    ]
    types = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    lines += [
        f"{types}; {chosen.bits_per_weight:.2f} bits per weight, {megabytes(size)} of "
        f"{megabytes(budget)}, expected divergence {chosen.predicted_kld:.2e} nats",
        *([f"{target}: {megabytes(size)}"] if target else []),
    ]
    show(document, lines, as_json=as_json)


def run_report(
    models: list[Path],
    *,
    reference: Path,
    text: Path,
    windows: int,
    window: int,
    threads: int,
    picture: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Judge every model, and print the table."""
    _require_torch()
    from quantize.pareto import write_picture
    from quantize.report import ReportOptions, make_report

    options = ReportOptions(
        num_windows=windows, window_len=window, num_threads=threads or os.cpu_count() or 1
    )
    with progress_bar("models") as progress:
        done = make_report(
            models,
            reference,
            text_of(text) or "",
            options=options,
            cache=state,
            progress=progress,
        )
    if picture is not None:
        write_picture(done, picture)
    show(done.to_json(), _table(done), as_json=as_json)


def _table(report: Any) -> list[str]:
    head = (
        f"{'model':32} {'size':>10} {'bits':>6} {'perplexity':>11} {'change':>8} "
        f"{'KLD':>9} {'99.9%':>9} {'top 1':>7} {'tok/s':>8} {'memory':>10} {'load':>7}"
    )
    rows = [
        f"{Path(r.model).name[-32:]:32} {megabytes(r.size_bytes):>10} {r.bits_per_weight:6.2f} "
        f"{r.perplexity:11.4f} {r.perplexity_change:+8.2%} {r.mean_kld:9.2e} {r.kld_999:9.2e} "
        f"{r.top1_agreement:7.2%} {r.tokens_per_s:8.0f} {megabytes(r.peak_memory_bytes):>10} "
        f"{r.load_s:6.2f}s"
        for r in report.rows
    ]
    foot = (
        f"against {Path(report.reference).name}: {megabytes(report.reference_bytes)}, "
        f"perplexity {report.reference_perplexity:.4f}, {report.num_positions:,} positions"
    )
    return [head, *rows, foot]


def _require_torch() -> None:
    from importlib.util import find_spec

    for package in ("torch", "safetensors", "tokenizers"):
        if find_spec(package) is None:
            raise MissingExtra(package, "quantize")
