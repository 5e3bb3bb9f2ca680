"""What a Hugging Face folder says of itself: its configuration, and the type of every tensor.

Only the heads of the safetensors files are read, no weights, so that it needs no torch.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import Any

from backbone.error_causes import cause
from backbone.errors import CheckpointError
from backbone.json_text import parse as parse_json
from backbone.template_files import chosen, read_templates
from edge.models.gguf_contents import Contents

_MOST = 100_000_000  # bytes of a head, as the safetensors library bounds it


def read_folder(folder: Path) -> Contents:
    """Read the configuration and the heads. Raises CheckpointError."""
    config = _object(folder / "config.json")
    settings = {key: value for key, value in config.items() if not isinstance(value, dict)}
    settings["general.architecture"] = config.get("model_type", "unknown")
    settings["tokenizer.chat_template"] = chosen(_templates(folder), tools=False) or ""
    tensors, numbers = Counter[str](), Counter[str]()
    for path in sorted(folder.glob("*.safetensors")):
        for kind, shape in _tensors(path):
            size = 1
            for length in shape:
                size *= length
            tensors[kind] += 1
            numbers[kind] += size
    return Contents(settings=settings, tensors=tensors, numbers=numbers)


def _tensors(path: Path) -> list[tuple[str, list[int]]]:
    try:
        if not path.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MOST:
                raise ValueError(f"a head of {length} bytes")
            head = parse_json(file.read(length))
        told = (each for name, each in head.items() if name != "__metadata__")
        return [(str(each["dtype"]), [int(n) for n in each["shape"]]) for each in told]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({cause(error)}); fetch it again") from None


def _templates(folder: Path) -> dict[str, str]:
    beside = folder / "tokenizer_config.json"
    return read_templates(folder, _object(beside) if beside.is_file() else {})


def _object(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}); fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again")
    return found
