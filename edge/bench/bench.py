"""Command `nearfar bench edge`: speed of the near model, or what each KV cache type costs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from backbone.errors import NearfarError, cause
from backbone.file_reading import MAX_TEXT_BYTES, read_text
from backbone.terminal_text import echo, echo_json
from edge.bench.timing import DraftReport, measure_speed
from edge.device.cpu_load import Disturbance
from edge.models.local_models import find_gguf
from offload.config.places import places
from offload.config.settings import Settings


def bench_speed(
    settings: Settings, *, prompt_tokens: int, answer_tokens: int, as_json: bool
) -> None:
    """Time the near model and print what was found."""
    report = asyncio.run(
        measure_speed(settings, places(), prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
    )
    if as_json:
        echo_json(msgspec.json.encode(report).decode())
        return
    echo(f"model    {report.model}, {report.quantization}, {report.size_bytes / 1e6:.0f} MB")
    echo(f"load     {report.load_s:.2f} s; memory then {report.memory_bytes / 1e6:.0f} MB")
    echo(f"first    {report.first_token_s:.3f} s to the first token")
    echo(f"prompt   {report.prefill_tokens_per_s:.1f} tokens/s ({report.prompt_tokens} read)")
    echo(f"answer   {report.decode_tokens_per_s:.1f} tokens/s ({report.answer_tokens} written)")
    if report.drafts is not None:
        echo(f"drafts   {_report(report.drafts)}")
    _warn(report.warning)


def _report(drafts: DraftReport) -> str:
    same = "the same answers" if drafts.same_answers else "answers parted by rounding"
    return (
        f"{drafts.ratio:.2f}x of {drafts.decode_tokens_per_s_without:.1f} tokens/s without; "
        f"{drafts.accepted} of {drafts.proposed} drafts accepted ({drafts.acceptance:.0%}); {same}"
    )


def _warn(warning: str | None) -> None:
    if warning is not None:
        echo(f"warning  {warning}")


def bench_kv(
    settings: Settings, *, kinds: Sequence[str], text: Path | None, num_tokens: int, as_json: bool
) -> None:
    """Compare the KV cache types, and print a row for each."""
    from edge.llama.kv_losses import KINDS, keep_losses, kv_report

    here = places()
    path, watch = find_gguf(settings.edge.model, here.models), Disturbance()
    rows = kv_report(
        path,
        names=kinds or KINDS,
        text=_read(text),
        num_tokens=num_tokens,
        num_threads=settings.edge.num_threads,
    )
    keep_losses(here.kv_losses, path, rows)
    busy = watch.busy_cores()
    warning = watch.warning(busy, [row.tokens_per_s_spread for row in rows])
    if as_json:
        found = {
            "model": path.name,
            "rows": rows,
            "others_busy_cores": round(busy, 2),
            "warning": warning,
        }
        echo_json(msgspec.json.encode(found).decode())
        return
    echo(
        f"{'type':11} {'B/token':>8} {'smaller':>8} {'perplexity':>11} {'KL':>9} "
        f"{'tokens/s':>9} {'spread':>7}"
    )
    for row in rows:
        echo(
            f"{row.name:11} {row.bytes_per_token:8.0f} {row.ratio_to_f16:7.2f}x "
            f"{row.perplexity_change:+11.3%} {row.divergence:9.2g} {row.tokens_per_s:9.1f} "
            f"{row.tokens_per_s_spread:7.0%}"
        )
    _warn(warning)


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text(path, MAX_TEXT_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise NearfarError(f"{path} cannot be read ({cause(error)}); give a text file") from None
