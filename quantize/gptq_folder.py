"""An HF folder quantized by GPTQ into another, one block in memory at a time.

Finished blocks lie in a hidden folder beside the target; an interrupted run finds them there
and goes on. At the end the folder gets its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.checkpoint import fingerprint
from backbone.errors import CheckpointError, NearfarError
from backbone.files import SHARED, replacement
from backbone.network import DecoderLayer
from backbone.terminal_text import readable_bytes
from quantize.block_stream import MODEL_PREFIX, BlockStream, StateFile, place
from quantize.calibration import (
    INPUT_GROUPS,
    LINEARS,
    CalibrationOptions,
    Moments,
    Progress,
    Walk,
    longest_window,
    windows_of,
)
from quantize.calibration_text import default_text
from quantize.gptq import GptqOptions, quantize_matrix
from quantize.gptq_format import pack, quantization_config
from quantize.weights import read_config

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


@dataclass(frozen=True, kw_only=True)
class MatrixResult:
    """Result of one matrix: relative squared output error, damping, silent columns."""

    name: str
    error: float
    damping: float
    num_dead: int


@dataclass(frozen=True, kw_only=True)
class GptqResult:
    """GPTQ result: the folder, its size, and every matrix's error.

    `group_size` is the one that was asked for, or the largest below it that fits the model.
    """

    path: Path
    size_bytes: int
    group_size: int
    matrices: tuple[MatrixResult, ...]


def quantize_gptq(
    source: Path,
    target: Path,
    *,
    options: GptqOptions | None = None,
    text: str | None = None,
    calibration: CalibrationOptions | None = None,
    device: str = "cpu",
    store_tied_head: bool = False,
    progress: Progress | None = None,
) -> GptqResult:
    """Write `target`, an AutoGPTQ v1 checkpoint of the HF folder `source`.

    `store_tied_head` writes an output layer that is the embedding a second time: auto-gptq
    0.7.1 leaves the embedding of a tied model empty without it.
    Peak memory: one block in float32, its Hessians, the hidden states of the calibration text.
    Raises CheckpointError and NearfarError: unknown or quantized source, no group size
    that divides, too short a text, too little space, a target that exists.
    """
    options = options or GptqOptions()
    job = _Job(Path(source), Path(target), options, device)
    calibration = calibration or CalibrationOptions()
    text = default_text() if text is None else text
    windows = windows_of(job.source, text, calibration, longest_window(job.stream))
    digest = hashlib.sha256(text.encode()).hexdigest()
    state = StateFile(
        job.part / "state.safetensors", fingerprint(job.source), digest, job.options, calibration
    )
    walk = Walk(job.stream, windows, full=True)
    if saved := state.load():
        walk.layer, walk.hidden = saved.layer, saved.tensors["hidden"].to(device)
    job.part.mkdir(parents=True, exist_ok=True)

    def visit(layer: int, block: DecoderLayer) -> None:
        job.quantize_block(walk, layer, block)

    for done in walk.steps(visit):
        state.save(done, {"hidden": walk.hidden})
        if progress:
            progress(done, job.stream.config.num_hidden_layers)
    state.remove()
    return job.finish(store_tied_head=store_tied_head)


class _Job:
    """One run's folders and what it writes into them."""

    def __init__(self, source: Path, target: Path, options: GptqOptions, device: str) -> None:
        self.source, self.target = source, target
        self.part = target.with_name(f".{target.name}.part")
        if target.exists():
            raise NearfarError(f"{target} exists already; name another folder or delete it")
        self.stream = BlockStream(source, device=device)
        self.options = options.fitting(self._widths())
        self._check_space()

    def _widths(self) -> set[int]:
        layers = range(self.stream.config.num_hidden_layers)
        names = [
            f"{MODEL_PREFIX}layers.{layer}.{name}.weight" for layer in layers for name in LINEARS
        ]
        return {each.shape[1] for name in names if (each := self.stream.tensors.get(name))}

    def _check_space(self) -> None:
        needed = sum(t.stop - t.start for t in self.stream.tensors.values())
        self.target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.target.parent).free
        if free < needed:
            raise NearfarError(
                f"quantizing may need {readable_bytes(needed)} in {self.target.parent} but "
                f"{readable_bytes(free)} are free; free some space or write to another disk"
            )

    def quantize_block(self, walk: Walk, layer: int, block: DecoderLayer) -> None:
        """Round every matrix of a block in place and write the block's shard."""
        prefix = f"{MODEL_PREFIX}layers.{layer}."
        tensors: dict[str, Tensor] = {}
        results: list[MatrixResult] = []
        moments: dict[str, Moments] = {}
        if not self.options.true_sequential:
            moments = walk.watch(block)
        for watched, group in INPUT_GROUPS.items():
            seen = moments.get(watched) or _watched(walk, block, watched)
            for name in group:
                result = self._quantize_one(block, name, seen.mean, prefix, tensors)
                results.append(result)
        rounded = {f"{prefix}{name}.weight" for name in LINEARS}
        tensors |= self._others(prefix, rounded)
        self._write_shard(layer, tensors, results)

    def _quantize_one(
        self,
        block: DecoderLayer,
        name: str,
        moment: Tensor,
        prefix: str,
        tensors: dict[str, Tensor],
    ) -> MatrixResult:
        matrix = quantize_matrix(block.get_parameter(f"{name}.weight").data, moment, self.options)
        place(block, f"{name}.weight", matrix.dequantized())
        packed = pack(matrix, self.options.bits, self.options.checkpoint_format)
        tensors.update({f"{prefix}{name}.{part}": t.cpu() for part, t in packed.items()})
        return MatrixResult(
            name=f"{prefix}{name}",
            error=matrix.error,
            damping=matrix.damping,
            num_dead=matrix.num_dead,
        )

    def _others(self, prefix: str, without: set[str]) -> dict[str, Tensor]:
        names = [n for n in self.stream.tensors if n.startswith(prefix) and n not in without]
        return {name: self._half(name) for name in names}

    def _half(self, name: str) -> Tensor:
        """Return a tensor that stays: bfloat16 as it is, everything else as float16."""
        stored = self.stream.tensors[name]
        if stored.dtype == "BF16":
            return torch.from_numpy(stored.raw()).view(torch.bfloat16)
        half = torch.from_numpy(stored.raw()).half()
        if torch.isinf(half).any():
            raise CheckpointError(f"tensor {name} does not fit into float16; use a bfloat16 source")
        return half

    def _shard(self, number: int) -> str:
        total = self.stream.config.num_hidden_layers + 1
        return f"model-{number + 1:05d}-of-{total:05d}.safetensors"

    def _write_shard(
        self, number: int, tensors: dict[str, Tensor], results: list[MatrixResult]
    ) -> None:
        from safetensors.torch import save_file

        about = {"format": "pt", "results": json.dumps([asdict(r) for r in results])}
        with replacement(self.part / self._shard(number), mode=SHARED) as part:
            save_file(tensors, part, metadata=about)

    def finish(self, *, store_tied_head: bool = False) -> GptqResult:
        """Write what is not part of a block, and give the folder its name."""
        num_layers = self.stream.config.num_hidden_layers
        rest = [n for n in self.stream.tensors if not n.startswith(f"{MODEL_PREFIX}layers.")]
        if self.stream.config.tie_word_embeddings:
            rest = [n for n in rest if n != "lm_head.weight"]
        tensors = {name: self._half(name) for name in rest}
        if store_tied_head and self.stream.config.tie_word_embeddings:
            tensors["lm_head.weight"] = self._half(f"{MODEL_PREFIX}embed_tokens.weight")
        self._write_shard(num_layers, tensors, [])
        results = self._write_index()
        self._write_config()
        for name in _TOKENIZER_FILES:
            if (self.source / name).is_file():
                shutil.copyfile(self.source / name, self.part / name)
        for left in self.part.glob(".*.part"):  # of a process that was killed at a shard
            left.unlink()
        os.replace(self.part, self.target)
        size = sum(file.stat().st_size for file in self.target.glob("*.safetensors"))
        return GptqResult(
            path=self.target,
            size_bytes=size,
            group_size=self.options.group_size,
            matrices=tuple(results),
        )

    def _write_index(self) -> list[MatrixResult]:
        from safetensors import safe_open

        weight_map: dict[str, str] = {}
        results: list[MatrixResult] = []
        for number in range(self.stream.config.num_hidden_layers + 1):
            shard = self._shard(number)
            with safe_open(self.part / shard, framework="pt") as file:
                weight_map |= dict.fromkeys(file.keys(), shard)
                found = json.loads((file.metadata() or {})["results"])
            results += [MatrixResult(**result) for result in found]
        size = sum(f.stat().st_size for f in self.part.glob("model-*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(self.part / "model.safetensors.index.json", index)
        return results

    def _write_config(self) -> None:
        quantization = quantization_config(self.options)
        config = read_config(self.source)
        kept = {t.dtype for t in self.stream.tensors.values()}
        config["dtype"] = "bfloat16" if kept == {"BF16"} else "float16"
        config.pop("torch_dtype", None)
        _write_json(self.part / "config.json", {**config, "quantization_config": quantization})
        _write_json(self.part / "quantize_config.json", quantization)


def _watched(walk: Walk, block: DecoderLayer, name: str) -> Moments:
    """Return the moments of a matrix's inputs, those before it being rounded already."""
    if name == "mlp.gate_proj":
        walk.pass_attention(block)
    return walk.watch_last(block) if name == "mlp.down_proj" else walk.watch(block, [name])[name]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
