"""`nearfar models pull`: from a name to a model in the models folder."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from backbone.sizes import readable
from edge.desk import hub
from edge.desk.catalogue import known
from edge.desk.download import DownloadError, fetch, sha256_of
from edge.desk.models import set_alias
from edge.device.fit import MARGIN
from edge.device.memory import free_memory_bytes


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched; `sha256` is that of the first file."""

    name: str
    path: str
    size_bytes: int
    sha256: str


def pull(name: str, folder: Path, *, anyway: bool = False) -> Pulled:
    """Fetch a model; one that is here already is only checked. Raises DownloadError."""
    source = hub.parse(name)
    chosen = hub.choose(source, hub.files(source))
    wanted = [hub.wanted(source, each) for each in chosen]
    total = sum(each.size_bytes for each in wanted)
    if not anyway:
        _require_fit(name, total, is_folder=not chosen[0].rfilename.endswith(".gguf"))
    places = [_place(each.rfilename, source, folder) for each in chosen]
    with _Bar(name, total) as bar:
        for each, place in zip(wanted, places, strict=True):
            if not (place.exists() and place.stat().st_size == each.size_bytes):
                fetch(each, place, headers=hub.headers(), progress=bar.show)
            bar.file_done(each.size_bytes)
    path = places[0] if places[0].parent == folder else folder / source.repo.split("/")[1]
    if known(name):
        set_alias(name.lower(), path.stem, folder)
    return Pulled(
        name=name if known(name) else path.stem,
        path=str(path),
        size_bytes=total,
        sha256=sha256_of(places[0]),
    )


def _place(name: str, source: hub.Source, folder: Path) -> Path:
    if name.endswith(".gguf"):
        return folder / Path(name).name
    whole = (folder / source.repo.split("/")[1] / name).resolve()
    if folder.resolve() not in whole.parents:
        raise DownloadError(
            f"{source.repo} names a file outside its folder ({name!r}); choose another repository"
        )
    return whole


def _require_fit(name: str, num_bytes: int, *, is_folder: bool) -> None:
    free = free_memory_bytes()
    listed = known(name)
    told = listed.misfit(free) if listed else None
    if told is None and not is_folder and num_bytes > free * MARGIN:
        told = f"{name} has {readable(num_bytes)} and {readable(free)} of memory are free"
    if told:
        raise DownloadError(f"{told}; --anyway fetches it all the same")


class _Bar:
    """A progress bar on stderr, where somebody watches it."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(name, total=total)
        self._before = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, _: int) -> None:
        self._progress.update(self._task, completed=self._before + done)

    def file_done(self, num_bytes: int) -> None:
        self._before += num_bytes
        self._progress.update(self._task, completed=self._before)
