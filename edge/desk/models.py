"""Which models are here: the embedded pair, the models folder, or any path a person names."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backbone.errors import CheckpointError
from offload.pair import CLOUD_MODEL, EDGE_MODEL


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this device; `runs` says which side can run it."""

    name: str
    runs: str  # "edge" or "cloud"
    path: str
    size_bytes: int
    embedded: bool


def list_models(folder: Path) -> list[ModelEntry]:
    """Return the embedded pair first, then what lies in the models folder."""
    entries = [
        _entry(EDGE_MODEL, "edge", embedded=True),
        _entry(CLOUD_MODEL, "cloud", embedded=True),
    ]
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix == ".gguf":
                entries.append(_entry(path, "edge"))
            elif (path / "config.json").is_file():
                entries.append(_entry(path, "cloud"))
    return entries


def _entry(path: Path, runs: str, *, embedded: bool = False) -> ModelEntry:
    files = path.rglob("*") if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return ModelEntry(name=path.stem, runs=runs, path=str(path), size_bytes=size, embedded=embedded)


def find_gguf(name: str, folder: Path) -> Path:
    """Return the GGUF file of this name: "embedded", a path, or one in the models folder.

    Raises CheckpointError with the names that would do.
    """
    if name in ("embedded", EDGE_MODEL.stem):
        return EDGE_MODEL
    path = Path(name).expanduser()
    for candidate in (path, folder / name, folder / f"{name}.gguf"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; the edge runs GGUF files: "
            f"make one with `nearfar quantize gguf {path} {path.name}.gguf`"
        )
    raise CheckpointError(
        f"there is no model {name!r}; `nearfar models list` shows those that are here, "
        "or name the path of a GGUF file"
    )
