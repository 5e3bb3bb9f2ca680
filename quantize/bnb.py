"""bitsandbytes: NF4, FP4 and int8 folders with the standard `quantization_config`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError, MissingExtra, NearfarError, WrongUsage
from backbone.terminal_text import readable_bytes
from quantize.architectures import architecture_of, require_dense
from quantize.weights import read_config, stored_tensors

KINDS = ("nf4", "fp4", "int8")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True, kw_only=True)
class BnbResult:
    """Result of a bitsandbytes quantization."""

    path: Path
    kind: str
    size_bytes: int


def quantize_bnb(
    source: Path, target: Path, *, kind: str = "nf4", double_quant: bool = True
) -> BnbResult:
    """Write `target`, a folder that transformers loads with bitsandbytes.

    Needs transformers and bitsandbytes. Raises MissingExtra without them, CheckpointError for a
    source that cannot be quantized, NearfarError for an unknown kind or a target that exists.
    """
    source, target = Path(source), Path(target)
    if kind not in KINDS:
        raise WrongUsage(f"unknown bitsandbytes type {kind!r}; choose one of {', '.join(KINDS)}")
    if target.exists():
        raise NearfarError(f"{target} exists already; name another folder or delete it")
    config = read_config(source)
    architecture_of(config)
    require_dense(config)
    needed = sum(t.stop - t.start for t in stored_tensors(source).values())
    _check_space(target, needed)
    # What stays unquantized is kept in half precision, as the checkpoints of others are.
    dtype = "bfloat16" if _is_bfloat16(source) else "float16"
    model = _load(source, dtype, quantization_config=_settings(kind, double_quant))
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        model.save_pretrained(part)
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, part / name)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(file.stat().st_size for file in target.glob("*.safetensors"))
    return BnbResult(path=target, kind=kind, size_bytes=size)


def load_bnb(folder: Path) -> Any:
    """Return the transformers model of a bitsandbytes folder, on the CPU, ready to run."""
    quantization = read_config(folder).get("quantization_config") or {}
    if quantization.get("quant_method") != "bitsandbytes":
        raise CheckpointError(f"{folder} is no bitsandbytes checkpoint; name a folder that is one")
    return _load(folder, "float32").eval()


def _is_bfloat16(source: Path) -> bool:
    return {t.dtype for t in stored_tensors(source).values()} == {"BF16"}


def _settings(kind: str, double_quant: bool) -> Any:
    require()
    import torch
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=torch.float32,
    )


def _load(folder: Path, dtype: str, **options: Any) -> Any:
    require()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map="cpu", local_files_only=True, **options
    )


def require() -> None:
    """Raise MissingExtra where the packages that read such folders are not installed."""
    for package in ("bitsandbytes", "transformers", "accelerate"):
        if find_spec(package) is None:
            raise MissingExtra(package, "gpu")


def _check_space(target: Path, num_bytes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes:
        raise NearfarError(
            f"quantizing may need {readable_bytes(num_bytes)} in {target.parent} but "
            f"{readable_bytes(free)} are free; free some space or write to another disk"
        )
