"""Which models are here: the embedded pair, the models folder, other programs', or any path."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from backbone.causes import cause
from backbone.errors import CheckpointError
from offload.errors import RequestError
from offload.pair import CLOUD_MODEL, EDGE_MODEL

ALIASES = "aliases.json"


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One model on this device; `runs` says which side can run it."""

    name: str
    runs: str  # "edge" or "cloud"
    path: str
    size_bytes: int
    embedded: bool


def list_models(folder: Path) -> list[ModelEntry]:
    """Return the embedded pair first, then the models folder, then what other programs have."""
    from edge.desk.elsewhere import found

    entries = [
        _entry(EDGE_MODEL, "edge", embedded=True),
        _entry(CLOUD_MODEL, "cloud", embedded=True),
    ]
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix == ".gguf" and not _is_later_part(path):
                entries.append(_entry(path, "edge"))
            elif (path / "config.json").is_file():
                entries.append(_entry(path, "cloud"))
    return [*entries, *(_entry(path, "edge", name=name) for name, path in found().items())]


def _is_later_part(path: Path) -> bool:
    return "-of-" in path.stem and "-00001-of-" not in path.stem


def _entry(path: Path, runs: str, *, embedded: bool = False, name: str | None = None) -> ModelEntry:
    return ModelEntry(
        name=name or path.stem,
        runs=runs,
        path=str(path),
        size_bytes=size_of(path),
        embedded=embedded,
    )


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def find_model(name: str, folder: Path) -> Path:
    """Return what the edge can run by this name: a Hugging Face folder, or else a GGUF file.

    Raises CheckpointError with the names that would do.
    """
    name = _meant(name, folder)
    for candidate in (Path(name).expanduser(), folder / name):
        if (candidate / "config.json").is_file():
            return candidate
    return find_gguf(name, folder)


def find_any(name: str, folder: Path) -> Path:
    """Return what `find_model` finds, or the folder of the embedded cloud model by its name.

    Raises CheckpointError with the names that would do.
    """
    return CLOUD_MODEL if name == CLOUD_MODEL.name else find_model(name, folder)


def find_gguf(name: str, folder: Path) -> Path:
    """Return the GGUF file of this name: "embedded", an alias, a path, one in the models folder, a
    name of the catalogue that was pulled, or another program's.

    Raises CheckpointError with the names that would do.
    """
    name = _meant(name, folder)
    if name in ("embedded", EDGE_MODEL.stem):
        return EDGE_MODEL
    path = Path(name).expanduser()
    for candidate in (path, folder / name, folder / f"{name}.gguf"):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise CheckpointError(_advice(path))
    return _found_elsewhere(name)


def _meant(name: str, folder: Path) -> str:
    if not name.strip():
        raise CheckpointError(
            "the model's name is empty; `nearfar models list` shows those that are here"
        )
    name = read_aliases(folder).get(name, name)
    try:
        for place in (Path(name).expanduser(), folder / f"{name}.gguf"):
            place.exists()
    except (OSError, RuntimeError) as error:  # too long for a file, or the home of nobody
        raise CheckpointError(
            f"{name[:60]!r} cannot be the name of a model ({cause(error)}); "
            "`nearfar models list` shows those that are here"
        ) from None
    return name


def _advice(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        if any(folder.glob("*.safetensors")):
            return f"{folder} has weights and no config.json; fetch the whole folder again"
        return f"{folder} is a folder without a model; name a GGUF file or a Hugging Face folder"
    target = f"{folder.resolve().name}.gguf"
    return (
        f"{folder} is a Hugging Face folder and a GGUF file is needed; "
        f"`nearfar quantize gguf {folder} {target}` makes one"
    )


def _found_elsewhere(name: str) -> Path:
    from edge.desk.catalogue import known
    from edge.desk.elsewhere import found

    there = found().get(name)
    if there is not None:
        return there
    if known(name):
        raise CheckpointError(f"{name} is not here yet; `nearfar models pull {name}` fetches it")
    raise CheckpointError(
        f"there is no model {name!r}; `nearfar models list` shows those that are here, "
        "or name the path of a GGUF file"
    )


def read_aliases(folder: Path) -> dict[str, str]:
    """Return the short names that a person gave, and those that pulling gave."""
    try:
        return msgspec.json.decode((folder / ALIASES).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(
            f"{folder / ALIASES} cannot be read ({cause(error)}); mend or delete it"
        ) from None


def set_alias(alias: str, target: str | None, folder: Path) -> None:
    """Give a model another name; None takes the name away. Raises RequestError for an empty one."""
    if not alias.strip():
        raise RequestError("the alias is empty; write a name")
    aliases = read_aliases(folder)
    aliases.pop(alias, None)
    if target is not None:
        aliases[alias] = target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{ALIASES}.{os.getpid()}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(aliases)))
    partial.replace(folder / ALIASES)


def remove(name: str, folder: Path) -> list[Path]:
    """Delete a model of the models folder, all parts of it; return what is gone.

    Raises CheckpointError for what is not ours to delete.
    """
    import shutil

    gone = removable(name, folder)
    for each in gone:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    path = gone[0]
    for alias, target in read_aliases(folder).items():
        if target in (name, path.stem, path.name):
            set_alias(alias, None, folder)
    return gone


def removable(name: str, folder: Path) -> list[Path]:
    """Return what removing a model would delete. Raises CheckpointError for what is not ours."""
    if _meant(name, folder) in ("embedded", EDGE_MODEL.stem, CLOUD_MODEL.name):
        raise CheckpointError(
            f"{name} belongs to nearfar itself and not in the models folder; "
            "it goes with `pip uninstall nearfar`"
        )
    inside = folder / name
    path = inside if (inside / "config.json").is_file() else find_gguf(name, folder)
    if folder.resolve() not in path.resolve().parents:
        raise CheckpointError(
            f"{path} is not in the models folder; it belongs to another program, or to you: "
            "delete it yourself if you want it gone"
        )
    start, _, parts = path.name.partition("-00001-of-")
    return sorted(folder.glob(f"{start}-*-of-{parts}")) if parts else [path]
