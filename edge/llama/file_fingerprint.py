"""A short name of a model file's content, quick for files of many gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
