"""Doctor output: the report for a person or a program, and the result of tuning."""

from __future__ import annotations

import msgspec

from backbone.terminal_text import echo, echo_json
from edge.doctor.doctor import DoctorReport
from edge.models.local_models import ModelEntry
from offload.config.places import places
from offload.config.settings_reading import load


def show(report: DoctorReport, *, as_json: bool) -> int:
    """Print the report; return the exit status, 1 where nothing can be answered on this device."""
    if as_json:
        echo_json(msgspec.json.encode(report).decode())
    else:
        for name, text in [*_device(report), *_models(report), *_verdict(report)]:
            echo(f"{name:9} {text}" if name else text)
    return 1 if report.stops else 0


def _device(report: DoctorReport) -> list[tuple[str, str]]:
    free = f"{report.free_memory_bytes / 1e9:.1f} of {report.memory_bytes / 1e9:.1f} GB free"
    speed = f"{report.bandwidth_bytes_per_s / 1e9:.1f} GB/s for one core"
    power = [("power", report.power_mode)] if report.power_mode else []
    offload = "with" if report.gpu_offload else "no"
    return [
        ("device", f"{report.device or report.kind}, {report.system}, Python {report.python}"),
        *power,
        ("cores", f"{report.cores}, {report.busy_cores:g} busy in the last minute"),
        ("features", ", ".join(report.cpu_features) or "unknown"),
        ("memory", f"{free}, {speed}"),
        ("disk", f"{report.disk_free_bytes / 1e9:.1f} GB free"),
        ("energy", report.energy),
        ("llama.cpp", f"{report.llama_cpp}, {offload} GPU offload"),
    ]


def _models(report: DoctorReport) -> list[tuple[str, str]]:
    here = [("model", _model(each, report.free_memory_bytes)) for each in report.models]
    speeds = [
        ("speed", f"{name}: at most about {rate:g} tokens/s, by the memory's speed")
        for name, rate in report.predicted_tokens_per_s.items()
    ]
    chosen = [("chosen", f"{each.name} {each.value}: {each.why}") for each in report.chosen]
    fits = ", ".join(report.fitting) or "none of the models worth fetching"
    return [
        *here,
        *speeds,
        *chosen,
        *(("auto", each) for each in report.engines),
        ("fits", fits),
        ("cloud", report.cloud),
        ("service", report.service),
        ("settings", report.config_file),
    ]


def _model(model: ModelEntry, free_bytes: int) -> str:
    room = "" if model.size_bytes < free_bytes else ", does not fit the free memory"
    return f"{model.name} ({model.size_bytes / 1e6:,.1f} MB, {model.runs}{room})"


def _verdict(report: DoctorReport) -> list[tuple[str, str]]:
    lesser = [each for each in report.problems if each not in report.stops]
    verdict = "" if report.problems else "all is well"
    if report.stops:
        verdict = "nothing can be answered here until what stops it is mended"
    return [
        *(("quicker", each) for each in report.advice),
        *(("problem", each) for each in lesser),
        *(("stops", each) for each in report.stops),
        *([("", verdict)] if verdict else []),
    ]


def tuned(*, as_json: bool) -> None:
    """Measure, keep the quicker settings, and print what was found."""
    from edge.doctor.tune import tune

    here = places()
    found = tune(load(here.config_file), here)
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
        return
    echo(f"{'settings':44} {'prompt':>8} {'reads':>9} {'writes':>9}  tokens/s")
    for each in found.trials:
        changed = (
            ", ".join(f"{name} {value}" for name, value in each.settings.items()) or "defaults"
        )
        read, write = each.prefill_tokens_per_s, each.decode_tokens_per_s
        echo(f"{changed:44} {each.prompt_tokens:8} {read:9.1f} {write:9.1f}")
    if not found.is_whole:
        echo("the minute was over before every setting had been tried")
    if found.left_alone:
        echo(f"left alone, since you set them: {', '.join(found.left_alone)}")
    for name, value in found.kept.items():
        echo(f"edge.{name} = {value} is written to {found.config_file}")
    echo(found.reason)
