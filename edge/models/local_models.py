"""Local models: the embedded pair, the models folder, other programs', aliases, and paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from backbone.errors import CheckpointError, cause
from backbone.files import atomic_write, expanded
from backbone.terminal_text import readable
from edge.models.model_contents import read_contents
from edge.models.split_models import first_part, is_later_part, parts_of
from offload.config.file_lock import turn
from offload.errors import RequestError
from offload.pair import CLOUD_MODEL, EDGE_MODEL

# Encoders, and halves of models: llama.cpp runs them in other ways than nearfar does.
_NO_WRITERS = frozenset({"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3"})
_NO_WRITERS |= {"modern-bert", "neo-bert", "eurobert", "t5", "t5encoder", "clip", "gemma-embedding"}
_DEPTH = 4  # OWNER/REPO/a folder inside/a file


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Model entry of this device; `runs` says which side can run it."""

    name: str
    runs: str  # "edge" or "cloud"
    path: str
    size_bytes: int
    embedded: bool
    embeddings: bool  # whether the near model makes vectors of texts


def list_models(folder: Path) -> list[ModelEntry]:
    """Return the embedded pair first, then the models folder, then what other programs have."""
    from edge.models.external_models import found

    entries = [
        _entry(EDGE_MODEL, "edge", embedded=True),
        _entry(CLOUD_MODEL, "cloud", embedded=True),
    ]
    for name, path in own_models(folder).items():
        entries.append(_entry(path, "cloud" if path.is_dir() else "edge", name=name))
    return [*entries, *(_entry(path, "edge", name=name) for name, path in found().items())]


def own_models(folder: Path) -> dict[str, Path]:
    """Return the models of the models folder by the name that means each alone.

    That is the file's name, or where it lies (OWNER/REPO/NAME) if another has the same.
    """
    there = list(_walk(folder, _DEPTH))
    number = Counter(map(_bare, there))
    named: dict[str, Path] = {}
    for path in there:
        name = _bare(path)
        if number[name] > 1 and path.parent != folder:
            name = _placed(path, folder)
        named[path.name if name in named else name] = path
    return named


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        there = sorted(folder.iterdir())
    except OSError:  # no folder yet, or another user's
        return
    for path in there:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if (path / "config.json").is_file():
                yield path
            elif depth > 1:
                yield from _walk(path, depth - 1)
        elif path.suffix == ".gguf" and not is_later_part(path):
            yield path


def _bare(path: Path) -> str:
    # A folder has no suffix: Qwen2.5-0.5B is its whole name.
    return path.name.removesuffix(".gguf")


def _placed(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix().removesuffix(".gguf")


def _entry(path: Path, runs: str, *, embedded: bool = False, name: str | None = None) -> ModelEntry:
    return ModelEntry(
        name=readable(name or _bare(path)),
        runs=runs,
        path=readable(str(path)),
        size_bytes=size_of(path),
        embedded=embedded,
        embeddings=runs == "edge" and makes_embeddings(path),
    )


def makes_embeddings(path: Path) -> bool:
    """Whether texts become vectors by this model: by any GGUF file of a model that writes."""
    if path.is_dir():
        return False
    try:
        return read_contents(path).architecture not in _NO_WRITERS
    except CheckpointError:  # a damaged file is listed, too
        return False


def size_of(path: Path) -> int:
    """Return the bytes of a model: of all parts of a GGUF, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else parts_of(path)
    return sum(file.stat().st_size for file in files if file.is_file())


def memory_needed(path: Path) -> float:
    """Return about how many bytes a model takes that is in use: with its context and its sums."""
    return 1.25 * size_of(path)


def find_listed(name: str, folder: Path) -> Path | None:
    """Return the model that the list of this device has by this name, also as `NAME:latest`.

    A path is no such name, so that who asks over a network reaches no other file.
    """
    for each in (name, name.removesuffix(":latest")):
        try:
            path = find_model(each, folder)
        except CheckpointError:
            continue
        if each in read_aliases(folder) or path in _listed_paths(folder):
            return path
    return None


def _listed_paths(folder: Path) -> set[Path]:
    from edge.models.external_models import found

    return {EDGE_MODEL, *map(_whole, own_models(folder).values()), *map(_whole, found().values())}


def _whole(path: Path) -> Path:
    return path if path.is_dir() else first_part(path)


def names_here(folder: Path) -> list[str]:
    """Return the names by which a model on this device can be asked, aliases last."""
    from edge.models.external_models import found

    return [EDGE_MODEL.stem, *own_models(folder), *found(), *read_aliases(folder)]


def spelt(name: str) -> str:
    """Return a model's name as the lists have it; the embedded one has two."""
    return EDGE_MODEL.stem if name == "embedded" else name


def choices(folder: Path, used: Iterable[str]) -> list[str]:
    """Return names_here(), behind what is used by another name, such as a path."""
    known = names_here(folder)
    # One file may be written in several ways; the first of them is shown.
    ways = [each for each in map(spelt, used) if each not in known]
    others = {expanded(each).absolute(): each for each in reversed(ways)}
    return [*reversed(others.values()), *known]


def as_setting(name: str, folder: Path) -> str:
    """Return a model's name as a setting keeps it: a path holds wherever a command is run.

    Raises CheckpointError where it means no model.
    """
    find_model(name, folder)
    path = expanded(name)
    return str(path.absolute()) if path.exists() and name not in names_here(folder) else name


def find_model(name: str, folder: Path) -> Path:
    """Return what the edge can run by this name: a Hugging Face folder, or else a GGUF file.

    Raises CheckpointError with the names that would do.
    """
    return _find(_meant(name, folder), folder, whole=True)


def find_any(name: str, folder: Path, *, whole: bool = True) -> Path:
    """Return what `find_model` finds, or the folder of the embedded cloud model by its name.

    Unless `whole`, a set of GGUF parts may lack some. Raises CheckpointError with the names that
    would do.
    """
    meant = _meant(name, folder)
    return CLOUD_MODEL if meant == CLOUD_MODEL.name else _find(meant, folder, whole=whole)


def _find(name: str, folder: Path, *, whole: bool) -> Path:
    for candidate in (expanded(name), folder / name):
        if (candidate / "config.json").is_file():
            return candidate
    there = _own(name, folder)
    if there is not None and there.is_dir():
        return there
    return _gguf(name, folder, whole=whole)


def find_gguf(name: str, folder: Path) -> Path:
    """Return the GGUF file of this name: "embedded", an alias, a path, one in the models folder, a
    name of the catalogue that was pulled, or another program's; of several parts the first.

    Raises CheckpointError with the names that would do.
    """
    return _gguf(_meant(name, folder), folder, whole=True)


def _gguf(name: str, folder: Path, *, whole: bool) -> Path:
    if name in ("embedded", EDGE_MODEL.stem):
        return EDGE_MODEL
    path = expanded(name)
    for candidate in (path, folder / name, folder / f"{name}.gguf", _own(name, folder)):
        if candidate is not None and candidate.is_file():
            return first_part(candidate) if whole else candidate
    if path.is_dir():
        raise CheckpointError(_advice(path))
    return _found_elsewhere(name)


def _own(name: str, folder: Path) -> Path | None:
    """Return a model that lies deeper in the models folder. Raises CheckpointError for several."""
    there = own_models(folder)
    if name in there:
        return there[name]
    same = [full for full, path in there.items() if name in (_bare(path), _placed(path, folder))]
    if len(same) > 1:
        raise CheckpointError(f"{name!r} may be {' or '.join(same)}; write one of these names")
    return there[same[0]] if same else None


def is_embedded(name: str, folder: Path) -> bool:
    """Whether a name means one of the two models that come with nearfar."""
    return _meant(name, folder) in ("embedded", EDGE_MODEL.stem, CLOUD_MODEL.name)


def _meant(name: str, folder: Path) -> str:
    if not name.strip():
        raise CheckpointError(
            "the model's name is empty; `nearfar models list` shows those that are here"
        )
    name = read_aliases(folder).get(name, name)
    try:
        for place in (expanded(name), folder / f"{name}.gguf"):
            place.exists()
    except OSError as error:  # too long for a file
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
    from edge.models.catalogue import known
    from edge.models.external_models import found

    there = found()
    for candidate in (name, f"{name}:latest", f"ollama/{name}", f"ollama/{name}:latest"):
        if candidate in there:
            return first_part(there[candidate])
    if known(name):
        raise CheckpointError(f"{name} is not here yet; `nearfar models pull {name}` fetches it")
    raise CheckpointError(_unknown(name))


def _unknown(name: str) -> str:
    return (
        f"there is no model {name!r}; `nearfar models list` shows those that are here, "
        "or name the path of a GGUF file"
    )


ALIASES = "aliases.json"


def read_aliases(folder: Path) -> dict[str, str]:
    """Return the short names that a person gave, and those that pulling gave."""
    try:
        return msgspec.json.decode((folder / ALIASES).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / ALIASES} cannot be read ({cause(error)}); mend or delete it"
        ) from None


def set_alias(alias: str, target: str | None, folder: Path) -> None:
    """Give a model another name; None takes the name away. Raises RequestError for an empty one."""
    if not alias.strip():
        raise RequestError("the alias is empty; write a name")
    folder.mkdir(parents=True, exist_ok=True)
    with turn(folder / f".{ALIASES}.turn"):  # a change is of what stands there now
        aliases = read_aliases(folder)
        aliases.pop(alias, None)
        if target is not None:
            aliases[alias] = target
        atomic_write(folder / ALIASES, msgspec.json.format(msgspec.json.encode(aliases)))
