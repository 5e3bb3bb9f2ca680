"""Importance matrix: per weight matrix, how large the inputs of each column are on average.

llama.cpp's quantizer weighs the error of a column by it. Kept in llama.cpp's own two file
formats, the older `.dat` and the newer GGUF.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError, cause
from backbone.file_reading import MAX_TEXT_BYTES, read_bytes
from backbone.files import SHARED, replacement
from quantize.gguf_reader import require_gguf

_SUM, _COUNT = ".in_sum2", ".counts"


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importance: mean squared input per column, float32 [in], by GGUF tensor name."""

    values: Mapping[str, NDArray[np.float32]]
    num_windows: int
    window_len: int
    dataset: str = "calibration"

    def save(self, path: Path) -> None:
        """Write llama.cpp's format: `.dat` the older one, anything else GGUF."""
        with replacement(path, mode=SHARED) as part:
            if path.suffix == ".dat":
                part.write_bytes(self._legacy())
            else:
                self._write_gguf(part)

    def _legacy(self) -> bytes:
        # Values are kept times the number of calls; readers divide by it again.
        calls = max(self.num_windows, 1)
        pieces = [struct.pack("<i", len(self.values))]
        for name, means in self.values.items():
            raw = name.encode()
            pieces += [struct.pack("<i", len(raw)), raw, struct.pack("<ii", calls, means.size)]
            pieces.append((means * np.float32(calls)).astype("<f4").tobytes())
        dataset = self.dataset.encode()
        pieces += [struct.pack("<ii", self.num_windows, len(dataset)), dataset]
        return b"".join(pieces)

    def _write_gguf(self, path: Path) -> None:
        from gguf import GGUFWriter

        writer = GGUFWriter(path, "")  # an empty architecture is not written
        try:
            writer.add_type("imatrix")
            writer.add_array("imatrix.datasets", [self.dataset])
            writer.add_uint32("imatrix.chunk_count", self.num_windows)
            writer.add_uint32("imatrix.chunk_size", self.window_len)
            tokens = np.float32(self.num_windows * self.window_len)
            for name, means in self.values.items():
                writer.add_tensor(name + _SUM, (means * tokens).astype(np.float32)[None])
                writer.add_tensor(name + _COUNT, np.full((1, 1), tokens, dtype=np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def load_importance(path: Path) -> Importance:
    """Read either of llama.cpp's formats. Raises CheckpointError for anything else."""
    require_gguf()
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; write it with `nearfar quantize importance`")
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    try:
        return _read_gguf(path) if is_gguf else _read_legacy(read_bytes(path, MAX_TEXT_BYTES))
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{path} is no importance matrix ({cause(error)}); write it again"
        ) from None


def _read_gguf(path: Path) -> Importance:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    tensors = {t.name: np.array(t.data, dtype=np.float32).ravel() for t in reader.tensors}
    names = [name.removesuffix(_SUM) for name in tensors if name.endswith(_SUM)]
    if not names:
        raise ValueError("it has no sums")
    return Importance(
        values={n: tensors[n + _SUM] / max(float(tensors[n + _COUNT][0]), 1.0) for n in names},
        num_windows=int(reader.fields["imatrix.chunk_count"].contents()),
        window_len=int(reader.fields["imatrix.chunk_size"].contents()),
        dataset=str(reader.fields["imatrix.datasets"].contents()[0]),
    )


def _read_legacy(raw: bytes) -> Importance:
    at = 0

    def number() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack_from("<i", raw, at - 4)[0])

    def taken(size: int) -> bytes:
        nonlocal at
        if size < 0 or at + size > len(raw):
            raise ValueError("it is cut off")
        at += size
        return raw[at - size : at]

    values: dict[str, NDArray[np.float32]] = {}
    for _ in range(number()):
        name = taken(number()).decode()
        calls, size = number(), number()
        means = np.frombuffer(taken(4 * size), dtype="<f4") / max(calls, 1)
        values[name] = means.astype(np.float32)
    if not values:
        raise ValueError("it has no entries")
    # The first files ended here.
    num_windows, dataset = (number(), taken(number()).decode()) if at < len(raw) else (0, "unknown")
    return Importance(values=values, num_windows=num_windows, window_len=0, dataset=dataset)
