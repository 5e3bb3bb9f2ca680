"""Model card of a file: what a model is, read from its head, before anything is loaded."""

from __future__ import annotations

import functools
from pathlib import Path

from backbone.terminal_text import readable
from edge.models.local_models import size_of
from edge.models.model_contents import ModelContents, read_contents, read_folder
from offload.messages import ModelCard

# Of general.file_type, llama.cpp's llama_ftype (include/llama.h).
_FILE_TYPES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1"}
_FILE_TYPES |= {10: "q2_k", 11: "q3_k_s", 12: "q3_k_m", 13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m"}
_FILE_TYPES |= {16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 32: "bf16"}


def card_of(path: Path) -> ModelCard:
    """Return the card of a GGUF file or a Hugging Face folder. Raises CheckpointError.

    Its context is what the model was trained for; the size of its vocabulary is left out.
    """
    status = path.stat() if path.exists() else None
    return _card(path, *((status.st_mtime_ns, status.st_size) if status else (0, 0)))


@functools.lru_cache(maxsize=256)  # a head holds the whole vocabulary, and takes a while to read
def _card(path: Path, _written_ns: int, _size: int) -> ModelCard:
    contents = read_folder(path) if path.is_dir() else read_contents(path)
    name = path.resolve().name if path.is_dir() else contents.settings.get("general.name")
    return ModelCard(
        name=readable(str(name or path.stem)),
        architecture=contents.architecture,
        runtime="torch" if path.is_dir() else "llama.cpp",
        num_parameters=sum(contents.parameters.values()),
        quantization=_quantization(contents),
        size_bytes=size_of(path),
        max_model_len=_trained_len(contents),
        chat=bool(contents.chat_template),
    )


def _quantization(contents: ModelContents) -> str:
    kind = contents.settings.get("general.file_type", -1)
    # What is not named by its file's type is named by the type of most of its weights.
    commonest = contents.parameters.most_common(1)
    return _FILE_TYPES.get(kind) or (commonest[0][0].lower() if commonest else "unknown")


def _trained_len(contents: ModelContents) -> int:
    for key in (f"{contents.architecture}.context_length", "max_position_embeddings"):
        found = contents.settings.get(key)
        if isinstance(found, int) and found > 0:
            return found
    return 0
