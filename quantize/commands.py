"""Quantize commands: run one conversion each, and print lines or one JSON document."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backbone.errors import WrongUsage, as_typed
from quantize.gguf import convert
from quantize.importance import load_importance
from quantize.smooth_keys import smooth_keys
from quantize.terminal import megabytes, progress_bar, require_torch, show
from quantize.text_samples import Sample

if TYPE_CHECKING:
    from quantize.gptq import GptqOptions
    from quantize.gptq_folder import GptqResult


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


def run_smooth_keys(source: Path, target: Path, *, as_json: bool) -> None:
    """Smooth the keys of a GGUF, and say by how much."""
    done = smooth_keys(source, target)
    lines = [
        f"{done.path}: {megabytes(done.size_bytes)}, {done.num_smoothed} of {done.num_pairs} pairs "
        f"of key channels smoothed; the largest bias was {done.largest_before:.1f} and is "
        f"{done.largest_after:.1f}",
        f"try it: nearfar bench edge --kv -m {done.path}",
    ]
    show(asdict(done), lines, as_json=as_json)


def _pattern_and_type(rule: str) -> tuple[str, str]:
    pattern, equals, name = rule.rpartition("=")
    if not (equals and pattern and name):
        raise WrongUsage(f"--keep {rule!r} is not PATTERN=TYPE; write it like ffn_down=q8_0")
    return pattern, name


def run_importance(
    source: Path,
    target: Path,
    *,
    sample: Sample,
    device: str,
    as_json: bool,
) -> None:
    """Measure, and save in llama.cpp's format."""
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


def run_gptq(
    source: Path,
    target: Path,
    *,
    bits: int,
    group_size: int,
    desc_act: bool,
    sym: bool,
    version: int,
    store_tied_head: bool,
    solver: str,
    sample: Sample,
    device: str,
    as_json: bool,
) -> None:
    """Quantize by GPTQ, and say how near it came."""
    require_torch()
    from quantize.gptq import GptqOptions
    from quantize.gptq_folder import quantize_gptq

    with as_typed():
        options = GptqOptions(
            bits=bits,
            group_size=group_size,
            desc_act=desc_act,
            sym=sym,
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
            store_tied_head=store_tied_head,
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


def run_bnb(source: Path, target: Path, *, kind: str, as_json: bool) -> None:
    """Quantize with bitsandbytes."""
    require_torch()
    from quantize.bnb import quantize_bnb

    done = quantize_bnb(source, target, kind=kind)
    show(asdict(done), [f"{done.path}: {megabytes(done.size_bytes)}, {kind}"], as_json=as_json)
