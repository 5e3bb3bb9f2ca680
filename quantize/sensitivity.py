"""Sensitivity of each matrix to each type: the KL divergence that its rounding is worth.

llama.cpp quantizes the whole model once per type, and the curvature of the predictions tells what
each matrix's error is worth (curvature.py): one pass over the text, where swapping every matrix in
takes one for each matrix and type.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.checkpoint import fingerprint
from backbone.errors import NearfarError, cause
from backbone.file_reading import MAX_TEXT_BYTES, read_text
from backbone.files import SHARED, atomic_write, scratch_folder
from backbone.files import parse_json as parse_json
from quantize.architectures import architecture_of, as_in_checkpoint, gguf_name
from quantize.calibration import CalibrationOptions
from quantize.calibration_text import default_text
from quantize.curvature import CurvatureProbe
from quantize.gguf import convert
from quantize.gguf_reader import inspect
from quantize.gguf_writer import open_checkpoint
from quantize.llama_quantizer import PLAIN_KINDS, exact_overrides
from quantize.weights import read_config

Progress = Callable[[int, int], None]  # (measurements done, measurements in all)
TYPES = (
    "q2_k", "q3_k", "iq4_xs", "iq4_nl", "q4_k", "q5_0", "q5_k", "q6_k", "q8_0", "f16",
)  # fmt: skip
_BASE_KIND = "q4_k_m"


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Sensitivity: KL divergence in nats and bytes, per GGUF tensor and type."""

    kld: Mapping[str, Mapping[str, float]]
    size_bytes: Mapping[str, Mapping[str, int]]
    num_weights: Mapping[str, int]
    overhead_bytes: int  # of the file: vectors, vocabulary, settings

    def save(self, path: Path, task: str) -> None:
        """Write it as JSON; `task` says what was measured."""
        document = json.dumps({"task": task, "found": asdict(self)})
        atomic_write(path, document.encode(), mode=SHARED)

    @classmethod
    def load(cls, path: Path, task: str) -> Sensitivity | None:
        """Read what `save` wrote; None for another task. Raises NearfarError for anything else."""
        try:
            kept = parse_json(read_text(path, MAX_TEXT_BYTES))
            return cls(**kept["found"]) if kept["task"] == task else None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise NearfarError(
                f"{path} holds no measurements ({cause(error)}); delete it, or name another --state"
            ) from None


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """Sensitivity options: how much text, and which types."""

    types: Sequence[str] = TYPES
    text: CalibrationOptions = field(
        default_factory=lambda: CalibrationOptions(num_windows=8, window_len=256, seed=17)
    )


def measure_sensitivity(
    source: Path,
    text: str | None = None,
    *,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    options: SensitivityOptions | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure what every matrix of an HF folder loses in every type; holds one block at a time.

    What was measured is kept in `cache`, a JSON file, and taken from there where it is the same.
    Raises CheckpointError for a folder that cannot be run, NearfarError for too short a text.
    """
    options = options or SensitivityOptions()
    text = default_text() if text is None else text
    task = repr((fingerprint(source), text, options, sorted(importance or ())))
    task = hashlib.sha256(task.encode()).hexdigest()
    if cache is not None and cache.is_file() and (kept := Sensitivity.load(cache, task)):
        return kept
    found = _measured(source, text, importance, options, progress or (lambda done, total: None))
    if cache is not None:
        found.save(cache, task)
    return found


def _measured(
    source: Path,
    text: str,
    importance: Mapping[str, NDArray[np.float32]] | None,
    options: SensitivityOptions,
    progress: Progress,
) -> Sensitivity:
    config = read_config(source)
    architecture = architecture_of(config)
    probe = CurvatureProbe(source, text, options.text)
    shapes = probe.shapes()
    names = {gguf_name(architecture, _in_folder(n)) or n: n for n in shapes}
    columns = {gguf: shapes[name][1] for gguf, name in names.items()}
    curvatures, found = probe.curvatures(), _Collected()
    with scratch_folder("plan") as folder:
        native = open_checkpoint(source).native_kind
        plain = convert(source, folder / "plain.gguf", kind=native).path
        for done, kind in enumerate(options.types):
            file = _all_in(plain, folder / "m.gguf", kind, columns, importance)
            found.note_file(file, kind, set(names))
            for number, (name, values) in enumerate(_matrices(file, kind), 1):
                rounded = as_in_checkpoint(architecture, config, name, values)
                error = probe.error(names[name], rounded)
                worth = sum(each.divergence(error) for each in curvatures[names[name]])
                found.kld.setdefault(name, {})[kind] = worth
                progress(done * len(names) + number, len(names) * len(options.types))
    return found.result()


def _in_folder(name: str) -> str:
    return name if name == "lm_head.weight" else f"model.{name}"


def _all_in(
    source: Path,
    target: Path,
    kind: str,
    columns: Mapping[str, int],
    importance: Mapping[str, NDArray[np.float32]] | None,
) -> Path:
    """Write a GGUF with every matrix in one type, float16 where its blocks do not divide a row."""
    if kind in PLAIN_KINDS:
        return convert(source, target, kind=kind).path
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]][0]
    types = {name: "f16" if size % block else kind for name, size in columns.items()}
    overrides = exact_overrides(types)
    return convert(source, target, kind=_BASE_KIND, overrides=overrides, importance=importance).path


def _matrices(file: Path, kind: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the matrices that really got the type; rows that its blocks do not divide did not."""
    from gguf import GGUFReader, quants

    for tensor in GGUFReader(file).tensors:
        if tensor.tensor_type.name.lower() == kind and len(tensor.shape) == 2:
            yield tensor.name, quants.dequantize(tensor.data, tensor.tensor_type)


class _Collected:
    """The measurements as they come in."""

    def __init__(self) -> None:
        self.kld: dict[str, dict[str, float]] = {}
        self._sizes: dict[str, dict[str, int]] = {}
        self._num_weights: dict[str, int] = {}
        self._overhead = 0

    def note_file(self, file: Path, kind: str, matrix_names: set[str]) -> None:
        stored = inspect(file)
        for name, count in stored.num_weights.items():
            if stored.types[name].lower() == kind:
                self._sizes.setdefault(name, {})[kind] = stored.num_bytes[name]
                self._num_weights[name] = count
        matrices = sum(size for name, size in stored.num_bytes.items() if name in matrix_names)
        self._overhead = max(self._overhead, file.stat().st_size - matrices)

    def result(self) -> Sensitivity:
        return Sensitivity(
            kld=self.kld,
            size_bytes={name: self._sizes[name] for name in self.kld},
            num_weights={name: self._num_weights[name] for name in self.kld},
            overhead_bytes=self._overhead,
        )
