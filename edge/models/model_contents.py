"""Contents of a model on disk: its settings, and the type of every tensor; no weights are read.

Source: the GGUF specification, `ggml/docs/gguf.md`.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from backbone.chat_template import choose_template, read_templates
from backbone.errors import CheckpointError, cause, require_few_tensors
from backbone.file_reading import MAX_CONFIG_BYTES, read_text
from backbone.files import parse_json as parse_json
from edge.llama.gguf_file import check_header

_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_SHOWN = 8  # elements of a list that are kept; vocabularies have hundreds of thousands
_MOST = 1 << 31
_TYPES = dict(
    enumerate(
        [
            "F32",
            "F16",
            "Q4_0",
            "Q4_1",
            "?",
            "?",
            "Q5_0",
            "Q5_1",
            "Q8_0",
            "Q8_1",
            "Q2_K",
            "Q3_K",
            "Q4_K",
            "Q5_K",
            "Q6_K",
            "Q8_K",
            "IQ2_XXS",
            "IQ2_XS",
            "IQ3_XXS",
            "IQ1_S",
            "IQ4_NL",
            "IQ3_S",
            "IQ2_S",
            "IQ4_XS",
            "I8",
            "I16",
            "I32",
            "I64",
            "F64",
            "IQ1_M",
            "BF16",
            "?",
            "?",
            "?",
            "TQ1_0",
            "TQ2_0",
            "?",
            "?",
            "?",
            "MXFP4",
        ]
    )
)


@dataclass(frozen=True, kw_only=True)
class ModelContents:
    """Model contents: settings by key, and how many tensors and parameters each type holds."""

    settings: dict[str, Any]
    tensors: Counter[str] = field(default_factory=Counter)
    parameters: Counter[str] = field(default_factory=Counter)

    @property
    def architecture(self) -> str:
        """Return the architecture's name."""
        return str(self.settings.get("general.architecture", "unknown"))

    @property
    def chat_template(self) -> str:
        """Return the chat template, empty where there is none."""
        return str(self.settings.get("tokenizer.chat_template", ""))


def read_contents(path: Path) -> ModelContents:
    """Read the file's head. Raises CheckpointError."""
    check_header(path)
    try:
        with path.open("rb") as file:
            return _contents(file, path)
    except (OSError, struct.error, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged ({cause(error)}); fetch it again") from None


def _contents(file: BinaryIO, path: Path) -> ModelContents:
    file.seek(8)
    num_tensors, num_settings = _read(file, "QQ")
    require_few_tensors(path, num_tensors)
    _bounded(num_tensors + num_settings)
    settings = {_text(file): _value(file, *_read(file, "I")) for _ in range(num_settings)}
    tensors, parameters = Counter[str](), Counter[str]()
    for _ in range(num_tensors):
        _text(file)
        (num_dims,) = _read(file, "I")
        shape = _read(file, "Q" * _bounded(num_dims, 8))
        kind, _ = _read(file, "IQ")
        name = _TYPES.get(kind, f"type {kind}")
        tensors[name] += 1
        size = 1
        for length in shape:
            size *= length
        parameters[name] += size
    return ModelContents(settings=settings, tensors=tensors, parameters=parameters)


def _read(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _text(file: BinaryIO) -> str:
    (length,) = _read(file, "Q")
    data = file.read(_bounded(length))
    if len(data) != length:
        raise ValueError("it ends too early")
    return data.decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind == _LIST:
        inner, length = _read(file, "IQ")
        if inner == _LIST:
            raise ValueError("a list of lists, which llama.cpp does not read")
        values = [_value(file, inner) for _ in range(min(_bounded(length), _SHOWN))]
        for _ in range(length - len(values)):
            _skip(file, inner)
        return values
    if kind not in _PLAIN:
        raise ValueError(f"a setting of unknown type {kind}")
    return _read(file, _PLAIN[kind])[0]


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _TEXT:
        (length,) = _read(file, "Q")
        file.seek(_bounded(length), 1)
    else:
        _value(file, kind)


def _bounded(number: int, maximum: int = _MOST) -> int:
    if number > maximum:
        raise ValueError(f"a length of {number}")
    return number


_MAX_HEAD_BYTES = 100_000_000  # bytes of a head, as the safetensors library bounds it


def read_folder(folder: Path) -> ModelContents:
    """Read the configuration and the heads. Raises CheckpointError."""
    config = _object(folder / "config.json")
    settings = {key: value for key, value in config.items() if not isinstance(value, dict)}
    settings["general.architecture"] = config.get("model_type", "unknown")
    settings["tokenizer.chat_template"] = choose_template(_templates(folder), tools=False) or ""
    tensors, parameters = Counter[str](), Counter[str]()
    for path in sorted(folder.glob("*.safetensors")):
        for kind, shape in _tensors(path):
            size = 1
            for length in shape:
                size *= length
            tensors[kind] += 1
            parameters[kind] += size
    return ModelContents(settings=settings, tensors=tensors, parameters=parameters)


def _tensors(path: Path) -> list[tuple[str, list[int]]]:
    try:
        if not path.is_file():  # a pipe would never end
            raise ValueError("it is no file")
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEAD_BYTES:
                raise ValueError(f"a head of {length} bytes")
            head = parse_json(file.read(length))
        require_few_tensors(path, len(head))
        tensors = (each for name, each in head.items() if name != "__metadata__")
        return [(str(each["dtype"]), [int(n) for n in each["shape"]]) for each in tensors]
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({cause(error)}); fetch it again") from None


def _templates(folder: Path) -> dict[str, str]:
    beside = folder / "tokenizer_config.json"
    return read_templates(folder, _object(beside) if beside.is_file() else {})


def _object(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path, MAX_CONFIG_BYTES, pipes=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}); fetch it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again")
    return found
