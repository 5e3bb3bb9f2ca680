"""GGUF files before llama.cpp gets them: a check of the header, a fingerprint of the content."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from backbone.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_HEADER_BYTES = 24  # magic, version, number of tensors, number of metadata entries


def check_header(path: Path) -> None:
    """Raise CheckpointError unless the file begins as a GGUF that this machine can read.

    Source: the GGUF specification, `ggml/docs/gguf.md`.
    """
    head = _read_head(path)
    if head[:4] != MAGIC:
        raise CheckpointError(f"{path} is not a GGUF file; {_advice(path, head)}")
    if len(head) < _HEADER_BYTES:
        raise CheckpointError(f"{path} is cut off after {len(head)} bytes; fetch it again")
    (version,) = struct.unpack("<I", head[4:8])
    if version in VERSIONS:
        return
    if struct.unpack(">I", head[4:8])[0] in VERSIONS:
        raise CheckpointError(
            f"{path} is a big-endian GGUF and this machine is little-endian; "
            "fetch the little-endian file of the model"
        )
    raise CheckpointError(
        f"{path} is a GGUF of version {version} and versions 2 and 3 can be read; "
        "fetch or make a newer file of the model"
    )


def _read_head(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder and a GGUF file is needed; "
            "`nearfar quantize gguf` makes one of a Hugging Face folder"
        )
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file but a pipe or a device; name a GGUF file")
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no model file {path}; `nearfar models list` shows those there are"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from None


def _advice(path: Path, head: bytes) -> str:
    if not head:
        return "it is empty; fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull` to fetch the file itself"
    if path.suffix == ".safetensors":
        return "`nearfar quantize gguf` makes one of a Hugging Face folder"
    return "give the path of a .gguf model"


HEAD_BYTES = 1 << 20  # holds most files' metadata and part of the vocabulary
NUM_SAMPLES = 64
SAMPLE_BYTES = 4096


def fingerprint(path: Path) -> str:
    """Return 32 hex digits of a hash of the size, the beginning, the end and samples between.

    Two quantizations or fine-tunings of one model differ in all samples, so reading everything
    would tell no more.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with path.open("rb") as file:
        digest.update(file.read(HEAD_BYTES))
        for index in range(1, NUM_SAMPLES + 1):
            file.seek(max(0, size * index // NUM_SAMPLES - SAMPLE_BYTES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
