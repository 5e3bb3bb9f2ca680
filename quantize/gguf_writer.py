"""A Hugging Face folder written as a plain GGUF: names, shapes and settings change, numbers not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbone.chat_template import DEFAULT
from backbone.config import check_counts
from backbone.errors import CheckpointError
from quantize.architectures import (
    Architecture,
    architecture_of,
    as_stored,
    expert_of,
    gguf_name,
    has_place,
    is_tied,
    num_experts,
    tensor_names,
)
from quantize.gguf_rope import rope_tensors
from quantize.gguf_settings import context_length, settings
from quantize.vocabulary import GgufVocabulary, read_vocabulary
from quantize.weights import StackedTensors, StoredTensor, read_config, stored_tensors

Progress = Callable[[int, int], None]  # (tensors done, tensors in all)
Source = StoredTensor | StackedTensors

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Checkpoint to convert: an HF folder with everything read and checked but the weights."""

    folder: Path
    config: Mapping[str, Any]
    architecture: Architecture
    vocabulary: GgufVocabulary
    tensors: Mapping[str, Source]  # by GGUF name

    @property
    def num_parameters(self) -> int:
        """Return the number of weights that will be stored."""
        return sum(int(np.prod(t.shape, dtype=np.int64)) for t in self.tensors.values())

    @property
    def native_kind(self) -> str:
        """Return the plain kind that loses nothing of any matrix."""
        dtypes = {t.dtype for t in self.tensors.values() if len(t.shape) > 1}
        return dtypes.pop().lower() if len(dtypes) == 1 else "f32"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what the GGUF does not say the same way."""
        length = context_length(self.architecture, self.config)
        if length == self.config["max_position_embeddings"]:
            return self.vocabulary.notes
        capped = f"context capped at the attention window of {length} tokens"
        return (*self.vocabulary.notes, capped)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read all of an HF folder but its numbers; CheckpointError says what is wrong with it."""
    config = read_config(folder)
    check_counts(config)
    architecture = architecture_of(config)
    stored = stored_tensors(folder)
    _check_counts(folder, config, stored)
    names = {name: gguf_name(architecture, name) for name in stored}
    kept = {gguf: name for name, gguf in names.items() if gguf}
    if is_tied(architecture, config):
        kept.pop("output.weight", None)  # written by some savers all the same
    _check_complete(folder, config, kept)
    kept = _with_a_place(folder, architecture, kept, stored)
    experts = _stacked(folder, num_experts(config), names, stored)
    return Checkpoint(
        folder=folder,
        config=config,
        architecture=architecture,
        vocabulary=read_vocabulary(folder, int(config["vocab_size"])),
        tensors={gguf: experts.get(gguf) or stored[name] for gguf, name in kept.items()},
    )


def _check_counts(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> None:
    """Raise CheckpointError where config.json tells of more than the files can hold."""
    rows = max((tensor.shape[0] for tensor in stored.values() if tensor.shape), default=0)
    for name, maximum in (("num_hidden_layers", len(stored)), ("vocab_size", rows)):
        value = config.get(name)
        if not isinstance(value, int) or not 0 < value <= maximum:
            raise CheckpointError(
                f"{folder}: {name} is {value!r} in config.json, and the weights have at most "
                f"{maximum}; fetch the model again"
            )


def _stacked(
    folder: Path,
    count: int,
    names: Mapping[str, str | None],
    stored: Mapping[str, StoredTensor],
) -> dict[str, StackedTensors]:
    """Return the experts' tensors by GGUF name. Raises CheckpointError where one of them lacks."""
    found: dict[str, dict[int, StoredTensor]] = {}
    for name, gguf in names.items():
        number = expert_of(name)
        if gguf and number is not None:
            found.setdefault(gguf, {})[number] = stored[name]
    for gguf, parts in found.items():
        kinds = {(part.dtype, part.shape) for part in parts.values()}
        if sorted(parts) != list(range(count)) or len(kinds) > 1:
            raise CheckpointError(
                f"{folder} has {len(parts)} experts of {len(kinds)} kinds for what GGUF calls "
                f"{gguf}, and config.json asks for {count} alike; fetch the model again"
            )
    return {
        gguf: StackedTensors(parts=tuple(parts[number] for number in range(count)))
        for gguf, parts in found.items()
    }


def _with_a_place(
    folder: Path,
    architecture: Architecture,
    kept: Mapping[str, str],
    stored: Mapping[str, StoredTensor],
) -> dict[str, str]:
    """Return the tensors without biases that llama.cpp does not read, which must be zero."""
    placed = {gguf: name for gguf, name in kept.items() if has_place(architecture, gguf)}
    for gguf, name in kept.items():
        if gguf not in placed and np.any(stored[name].float32()):
            raise CheckpointError(
                f"{folder} has the bias {name}, which llama.cpp does not read in "
                f"{architecture.gguf} models, so that no GGUF can hold it; run the folder itself "
                f"(nearfar chat -m {folder})"
            )
    return placed


def _check_complete(folder: Path, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for name in tensor_names(architecture_of(config), config):
        if name not in names:
            raise CheckpointError(
                f"{folder} lacks the tensor that GGUF calls {name}; fetch the model again"
            )


def write_plain(
    checkpoint: Checkpoint, target: Path, *, kind: str, progress: Progress | None = None
) -> None:
    """Write `target` as f32, f16 or bf16: matrices in that type, vectors in float32."""
    from gguf import GGUFWriter

    writer = GGUFWriter(target, checkpoint.architecture.gguf)
    try:
        _add_settings(writer, checkpoint, kind)
        _add_vocabulary(writer, checkpoint.vocabulary)
        computed = rope_tensors(checkpoint.config)
        for name, values in computed.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
        for name, tensor in checkpoint.tensors.items():
            _announce(writer, name, tensor, _stored_kind(name, tensor, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in computed.values():
            writer.write_tensor_data(values)
        for done, name in enumerate(checkpoint.tensors, start=1):
            writer.write_tensor_data(_converted(checkpoint, name, kind))
            if progress:
                progress(done, len(checkpoint.tensors))
    finally:
        writer.close()


def _stored_kind(name: str, tensor: Source, kind: str) -> str:
    # A router's choice turns on small differences, and no quantized type touches it.
    return "f32" if len(tensor.shape) == 1 or ".ffn_gate_inp." in name else kind


def _announce(writer: Any, name: str, tensor: Source, kind: str) -> None:
    from gguf import GGMLQuantizationType

    writer.add_tensor_info(
        name,
        tensor.shape,
        np.dtype(np.float32),
        int(np.prod(tensor.shape, dtype=np.int64)) * _ITEM_BYTES[kind.upper()],
        raw_dtype=GGMLQuantizationType[kind.upper()],
    )


def _converted(checkpoint: Checkpoint, name: str, kind: str) -> NDArray[Any]:
    tensor = checkpoint.tensors[name]
    kind = _stored_kind(name, tensor, kind)
    if tensor.dtype == kind.upper():
        values = tensor.raw()  # bfloat16 travels as it is, in two bytes
    else:
        values = _narrowed(tensor.float32(), kind, name)
    return as_stored(checkpoint.architecture, checkpoint.config, name, values)


def _narrowed(values: NDArray[np.float32], kind: str, name: str) -> NDArray[Any]:
    if kind == "f32":
        return values
    if kind == "f16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isinf(half).any() and not np.isinf(values).any():
            raise CheckpointError(f"{name} does not fit into f16; use bf16 or q8_0 instead")
        return half
    from gguf import GGMLQuantizationType, quants

    halves: NDArray[Any] = quants.quantize(values, GGMLQuantizationType.BF16)
    return halves.view(np.uint16)


def _add_settings(writer: Any, checkpoint: Checkpoint, kind: str) -> None:
    from quantize.llama_quantizer import file_type

    writer.add_string("general.name", _model_name(checkpoint))
    writer.add_uint32("general.file_type", file_type(kind))
    for key, value in settings(checkpoint.architecture, checkpoint.config).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{checkpoint.architecture.gguf}.{key}", value)


def _model_name(checkpoint: Checkpoint) -> str:
    # llama.cpp reads from a name with "phi3" in it how the tokenizer treats spaces.
    name = checkpoint.folder.resolve().name
    if not checkpoint.vocabulary.is_phi3:
        return re.sub(r"(?i)phi-?3", "phi 3", name)
    return name if re.search(r"(?i)phi-?3", name) else f"phi-3 {name}"


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_string("tokenizer.ggml.model", vocabulary.model)
    writer.add_string("tokenizer.ggml.pre", vocabulary.pre)
    writer.add_array("tokenizer.ggml.tokens", vocabulary.tokens)
    writer.add_array("tokenizer.ggml.token_type", vocabulary.types)
    writer.add_array("tokenizer.ggml.merges", vocabulary.merges)
    writer.add_array("tokenizer.ggml.scores", vocabulary.scores)
    for role, number in vocabulary.special_ids.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", number)
    _add_ends(writer, vocabulary)
    writer.add_bool("tokenizer.ggml.add_bos_token", vocabulary.add_bos)
    writer.add_bool("tokenizer.ggml.add_eos_token", vocabulary.add_eos)
    writer.add_bool("tokenizer.ggml.add_space_prefix", vocabulary.add_space_prefix)
    _add_templates(writer, vocabulary.chat_templates)


def _add_ends(writer: Any, vocabulary: GgufVocabulary) -> None:
    """Write all tokens that end an answer, for nearfar; llama.cpp reads two beside the first."""
    further = [n for n in vocabulary.end_ids if n != vocabulary.special_ids.get("eos")]
    if further:
        # A text, since llama.cpp hands no lists on to who asks it for a file's metadata.
        writer.add_string("nearfar.eos_token_ids", str(list(vocabulary.end_ids)))
    for name, number in zip(("eot", "eom"), further, strict=False):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)


def _add_templates(writer: Any, templates: Mapping[str, str]) -> None:
    named = {name: text for name, text in templates.items() if name != DEFAULT}
    if named:
        writer.add_array("tokenizer.chat_templates", list(named))
    for name, text in templates.items():
        key = "tokenizer.chat_template"
        writer.add_string(key if name == DEFAULT else f"{key}.{name}", text)
