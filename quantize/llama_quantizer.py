"""llama.cpp's own quantizer through ctypes: every GGUF type, importance, per-tensor types."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.errors import CheckpointError, WrongUsage
from quantize.gguf_reader import require_gguf
from quantize.llama_log import captured_log, last_error

# Tensors whose type llama.cpp takes from a field of its own.
_NAMED = {"token_embd.weight": "token_embedding_type", "output.weight": "output_tensor_type"}
TENSOR_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_0", "q5_1", "q4_k", "q4_0", "q4_1"),
    *("q3_k", "q2_k", "iq4_nl", "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs"),
    *("iq1_m", "iq1_s", "tq1_0", "tq2_0"),
)
PLAIN_KINDS = ("f32", "f16", "bf16")
_COUNTED = re.compile(r"\[ *(\d+)/ *(\d+)\]")  # how llama.cpp begins its line on each tensor
# Rows of one tensor held while quantizing; llama.cpp's own default of 8 GiB is more than a
# small device has.
_MAX_BUFFER_BYTES = 256 << 20


def file_types() -> dict[str, int]:
    """Return the number that llama.cpp gives each kind of file, by lower-case name."""
    require_gguf()
    from gguf import LlamaFileType

    names = {
        t.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(): int(t) for t in LlamaFileType
    }
    return {name: number for name, number in names.items() if name not in _UNUSABLE}


# Kinds for mixtures of experts, or whose number is only a placeholder.
_UNUSABLE = ("guessed", "mxfp4_moe", "nvfp4", "q1_0")


def file_type(kind: str) -> int:
    """Return llama.cpp's number for a kind such as "q4_k_m"; NearfarError lists the known ones."""
    known = file_types()
    if kind not in known:
        raise WrongUsage(f"unknown GGUF type {kind!r}; choose one of {', '.join(sorted(known))}")
    return known[kind]


def tensor_type(name: str) -> int:
    """Return ggml's number for a tensor type such as "q8_0"; NearfarError lists the known ones."""
    require_gguf()
    from gguf import GGMLQuantizationType

    # llama.cpp stops the whole process for any other.
    known = {t: int(GGMLQuantizationType[t.upper()]) for t in TENSOR_TYPES}
    if name.lower() not in known:
        raise WrongUsage(f"unknown tensor type {name!r}; choose one of {', '.join(known)}")
    return known[name.lower()]


def exact_overrides(types: Mapping[str, str]) -> dict[str, str]:
    """Return the `overrides` that give exactly the named tensors their types."""
    # These two are looked up by name, all others by regular expression.
    return {n if n in _NAMED else f"^{re.escape(n)}$": t for n, t in types.items()}


def requantize(
    source: Path,
    target: Path,
    *,
    kind: str,
    overrides: Mapping[str, str],
    importance: Mapping[str, NDArray[np.float32]] | None,
    allow_requantize: bool,
    num_threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `target` from the GGUF `source` in another type.

    `overrides`: regular expression of tensor names -> type; `importance`: tensor name -> mean
    squared input per column, float32 [in]. Raises CheckpointError with llama.cpp's own reason.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type(kind)
    params.nthread = num_threads
    params.allow_requantize = allow_requantize
    params.max_buf_size = _MAX_BUFFER_BYTES
    # ctypes keeps no reference to what a pointer field points to; these names do.
    kept_overrides = _tensor_overrides(overrides)
    kept_importance = _importance_entries(importance or {})
    if overrides:
        params.tt_overrides = kept_overrides
    if importance:
        params.imatrix = kept_importance
    _apply_named(params, overrides)

    def heard(line: str) -> None:
        if progress and (counted := _COUNTED.match(line)):
            progress(int(counted[1]), int(counted[2]))

    with captured_log(heard) as lines:
        status = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params))
    if status:
        reason = last_error(lines)
        if "importance" in reason.lower():
            reason += "; measure one with `nearfar quantize importance` and hand it in"
        raise CheckpointError(f"llama.cpp cannot write {kind}: {reason}")


def _apply_named(params: Any, overrides: Mapping[str, str]) -> None:
    # llama.cpp decides these two apart from all other tensors.
    for name, field in _NAMED.items():
        if name in overrides:
            setattr(params, field, tensor_type(overrides[name]))


def _tensor_overrides(overrides: Mapping[str, str]) -> Any:
    import llama_cpp

    entries = (llama_cpp.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, (pattern, name) in zip(entries, overrides.items(), strict=False):
        entry.pattern = pattern.encode()
        entry.type = tensor_type(name)
    return entries


def _importance_entries(importance: Mapping[str, NDArray[np.float32]]) -> Any:
    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        values = np.ascontiguousarray(values, dtype=np.float32)
        entry.name = name.encode()
        entry.data = (ctypes.c_float * values.size).from_buffer_copy(values.tobytes())
        entry.size = values.size
    return entries
