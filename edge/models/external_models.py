"""Models of other programs (ollama, LM Studio, the Hub's cache), used where they lie.

ollama keeps a manifest per tag that names a blob by its digest; LM Studio keeps
`publisher/repo/file.gguf`; the Hub's cache keeps snapshots of repositories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from backbone.files import expanded
from edge.models.split_models import is_later_part

_WEIGHTS = "application/vnd.ollama.image.model"


class _Layer(msgspec.Struct, frozen=True):
    mediaType: str
    digest: str


class _Manifest(msgspec.Struct, frozen=True):
    layers: list[_Layer]


def found() -> dict[str, Path]:
    """Return GGUF files by name, as `ollama/qwen3:4b` or `lmstudio/owner/file`."""
    return dict([*_ollama(), *_lm_studio(), *_hub_cache()])


def _home(variable: str, *defaults: str) -> list[Path]:
    named = os.environ.get(variable)
    return [expanded(each) for each in ([named] if named else defaults)]


def _ollama() -> Iterator[tuple[str, Path]]:
    for root in _home("OLLAMA_MODELS", "~/.ollama/models", "/usr/share/ollama/.ollama/models"):
        manifests = root / "manifests"
        for path in sorted(_files(manifests)):
            blob = _blob(root, path)
            if blob is not None and blob.is_file():
                _, *owner, model, tag = path.relative_to(manifests).parts
                shown = [*(each for each in owner if each != "library"), f"{model}:{tag}"]
                yield "/".join(["ollama", *shown]), blob


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.glob("*/*/*/*") if path.is_file())
    except OSError:  # another user's folder
        return


def _blob(root: Path, manifest: Path) -> Path | None:
    try:
        layers = msgspec.json.decode(manifest.read_bytes(), type=_Manifest).layers
    except (OSError, msgspec.MsgspecError):
        return None
    digests = [layer.digest for layer in layers if layer.mediaType == _WEIGHTS]
    return root / "blobs" / digests[0].replace(":", "-") if digests else None


def _lm_studio() -> Iterator[tuple[str, Path]]:
    for root in _home("LMSTUDIO_MODELS", "~/.lmstudio/models", "~/.cache/lm-studio/models"):
        there = [
            (path.parts[-3], path.parts[-2], path)
            for path in sorted(root.glob("*/*/*.gguf"))
            if "mmproj" not in path.name
        ]
        yield from _named("lmstudio", there)


def _hub_cache() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    for root in _home("HF_HUB_CACHE", f"{home}/hub"):
        there = [
            (*path.parts[-4].removeprefix("models--").partition("--")[::2], path)
            for path in sorted(root.glob("models--*/snapshots/*/*.gguf"))
        ]
        yield from _named("hub", there)


def _named(program: str, there: Sequence[tuple[str, str, Path]]) -> Iterator[tuple[str, Path]]:
    """Name models by owner and file, and by their repository too where two have the same."""
    first = [each for each in there if not is_later_part(each[2])]
    places = {(owner, path.stem): set[str]() for owner, _, path in first}
    for owner, repo, path in first:
        places[owner, path.stem].add(repo)
    for owner, repo, path in first:
        between = [repo] if len(places[owner, path.stem]) > 1 else []
        yield "/".join([program, owner, *between, path.stem]), path
