"""Models that other programs have already fetched, used where they lie: nothing is copied.

ollama keeps a manifest per tag that names a blob by its digest; LM Studio keeps
`publisher/repo/file.gguf`; the Hub's cache keeps snapshots of repositories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

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
    return [Path(each).expanduser() for each in ([named] if named else defaults)]


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
        for path in sorted(root.glob("*/*/*.gguf")):
            if "mmproj" not in path.name:
                yield f"lmstudio/{path.parts[-3]}/{path.stem}", path


def _hub_cache() -> Iterator[tuple[str, Path]]:
    for root in _home("HF_HUB_CACHE", "~/.cache/huggingface/hub"):
        for path in sorted(root.glob("models--*/snapshots/*/*.gguf")):
            owner = path.parts[-4].split("--")[1]
            yield f"hub/{owner}/{path.stem}", path
