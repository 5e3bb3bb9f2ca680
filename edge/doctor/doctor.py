"""Device report: what this device is, what runs on it, and each problem with its remedy."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import shutil
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil

from backbone.energy import EnergyMeter, energy_in_words
from backbone.errors import NearfarError, cause
from backbone.process_limits import free_memory_bytes
from backbone.terminal_text import readable_bytes
from edge.device.llama_build import build_advice, built_with, cpu_features, has_nvidia, require_cpu
from edge.device.profile import read_profile
from edge.doctor.chosen_settings import ChosenSetting, chosen_settings
from edge.llama.speed import memory_bandwidth, predicted_tokens_per_s
from edge.models.local_models import ModelEntry, list_models
from engine.engine_choice import CHOICES_FILE, read_choices
from offload.config.obstacles import obstacle
from offload.config.places import Places, places
from offload.config.running_service import find
from offload.config.settings import Settings
from offload.config.settings_reading import load
from offload.link.client import CloudLink
from offload.link.pool import open_links

LEAST_FREE_BYTES = 100_000_000  # below which conversations and the ledger may soon not be kept


class DoctorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Doctor report: what was found, in whole sentences with their remedies.

    `stops` is why nothing can be answered here now; `problems` are those and the lesser ones;
    `advice` is what would make a well device quicker.
    """

    system: str
    kind: str  # "jetson", "raspberry-pi", "mac", "laptop" or "other"
    device: str
    power_mode: str
    python: str
    cores: int
    cpu_features: list[str]
    disk_free_bytes: int
    bandwidth_bytes_per_s: float  # of one core's copies
    predicted_tokens_per_s: dict[str, float]  # at most, by model
    fitting: list[str]  # models worth fetching that fit the free memory now
    advice: list[str]
    busy_cores: float  # runnable processes, averaged over the last minute
    memory_bytes: int
    free_memory_bytes: int
    llama_cpp: str
    gpu_offload: bool
    config_file: str
    data_folder: str
    energy: str  # who counts it, so that `/metrics` tells joules
    models: list[ModelEntry]
    chosen: list[ChosenSetting]  # for the near model that is set up
    engines: list[str]  # what "auto" was measured to mean for models that torch runs
    cloud: str
    service: str  # whether `nearfar up` runs, and so who loads the model that `ask` uses
    stops: list[str]
    problems: list[str]


def examine() -> DoctorReport:
    """Look at this device; nothing here raises for what is merely wrong with it."""
    here, stops, problems = places(), list[str](), list[str]()
    memory, free = psutil.virtual_memory(), free_memory_bytes()
    settings = _settings(here, stops)
    unread = bool(stops)
    # With a llama-server as the near engine, none is needed here.
    version, gpu = _llama_cpp([] if settings.edge.server else stops)
    models = list_models(here.models)
    # Settings that cannot be read choose nothing, and are said once.
    chosen = [] if unread or settings.edge.server else chosen_settings(settings, here, stops)
    problems += [*_lacking(models), *_locked(here)]
    profile, features, bandwidth = read_profile(), cpu_features(), memory_bandwidth()
    advice = build_advice(features, built_with(_system_info()), nvidia=has_nvidia(), offload=gpu)
    return DoctorReport(
        kind=profile.kind,
        device=profile.model,
        power_mode=profile.power_mode.name if profile.power_mode else "",
        cpu_features=sorted(features),
        disk_free_bytes=_disk(here.data),
        bandwidth_bytes_per_s=round(bandwidth),
        predicted_tokens_per_s={
            each.name: round(predicted_tokens_per_s(each.size_bytes, bandwidth), 1)
            for each in models
            if each.runs == "edge" and not each.embedded
        },
        fitting=_fitting(free),
        advice=[*profile.advice(), *advice],
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        busy_cores=round(psutil.getloadavg()[0], 2),
        memory_bytes=memory.total,
        free_memory_bytes=free,
        llama_cpp=version,
        gpu_offload=gpu,
        config_file=str(here.config_file),
        data_folder=str(here.data),
        energy=energy_in_words(EnergyMeter().read()),
        models=models,
        chosen=chosen,
        engines=[
            f"{each.model}: {each}" for each in read_choices(here.cache / CHOICES_FILE).values()
        ],
        cloud=_cloud(settings, here, problems),
        service=_service(settings, here),
        stops=stops,
        problems=[*stops, *problems],
    )


def _service(settings: Settings, here: Places) -> str:
    running = find(here)
    if running is None:
        return "`nearfar up` does not run: `ask` and `chat` load the model themselves"
    used = "use its model" if settings.edge.use_service else "do not, by edge.use_service"
    return f"`nearfar up` runs at {running.url}: `ask` and `chat` {used}"


def _system_info() -> str:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError):  # said where its version is asked for
        return ""
    return bytes(llama_cpp.llama_print_system_info()).decode()


def _disk(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is, or will be, on."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free


def _fitting(free_bytes: int) -> list[str]:
    from edge.models.catalogue import CATALOGUE

    return [each.name for each in CATALOGUE if each.misfit(free_bytes) is None]


def _cores() -> int:
    return psutil.cpu_count() or 1


def _llama_cpp(problems: list[str]) -> tuple[str, bool]:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"llama.cpp cannot be loaded ({cause(error)}); reinstall llama-cpp-python")
        return "missing", False
    try:
        require_cpu(_system_info())
    except NearfarError as error:
        problems.append(str(error))
    return str(llama_cpp.__version__), bool(llama_cpp.llama_supports_gpu_offload())


def _settings(here: Places, problems: list[str]) -> Settings:
    try:
        return load(here.config_file)
    except NearfarError as error:
        problems.append(str(error))
        return Settings()


def _locked(here: Places) -> list[str]:
    """Return a problem for each folder that nothing can be kept in."""
    problems = []
    for folder in dict.fromkeys((here.config, here.data, here.cache)):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        free = shutil.disk_usage(there).free
        if not there.is_dir() or not os.access(there, os.W_OK):
            problems.append(obstacle(folder / "any", PermissionError(errno.EACCES, "refused")))
        elif free < LEAST_FREE_BYTES:
            problems.append(
                f"the disk of {there} has {readable_bytes(free)} left; "
                "free some, or set NEARFAR_HOME to another"
            )
    return list(dict.fromkeys(problems))


def _lacking(models: list[ModelEntry]) -> list[str]:
    return [
        f"the embedded model {model.path} is missing; reinstall nearfar"
        for model in models
        if model.embedded and not Path(model.path).exists()
    ]


def _cloud(settings: Settings, here: Places, problems: list[str]) -> str:
    if not settings.cloud.url:
        return "none is set up"
    try:
        links = open_links(settings.cloud, here.keys)
    except NearfarError as error:
        problems.append(str(error))
        return f"{settings.cloud.url} cannot be used"
    return ", ".join(asyncio.run(_reach(link, problems)) for link in links)


async def _reach(link: CloudLink, problems: list[str]) -> str:
    async with aclosing(link):
        try:
            card = await link.connect()
        except NearfarError as error:
            problems.append(str(error))
            return f"{link.endpoint} cannot be used"
        return f"{card.name} at {link.endpoint}"
