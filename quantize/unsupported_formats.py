"""Quantized folders of other makers that are not read here, each with the reason told rightly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.errors import CheckpointError


def check_readable(folder: Path, quantization: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a kind of GPTQ or bitsandbytes folder that is not read here.

    `quantization` is what config.json says under `quantization_config`, empty for nothing.
    """
    reason = _reason(folder, quantization)
    if reason:
        raise CheckpointError(
            f"{folder} {reason}; quantize the original with `nearfar quantize gptq`"
        )


def _reason(folder: Path, quantization: Mapping[str, Any]) -> str | None:
    method = quantization.get("quant_method")
    if not quantization and (folder / "quantize_config.json").is_file():
        return (
            "says how it is quantized in quantize_config.json alone, as old AutoGPTQ did, and "
            "config.json is what is read: put that under quantization_config there"
        )
    if method == "gptq" and quantization.get("dynamic"):
        return "has other bits or groups for some layers (dynamic), which are not read here"
    storage = str(quantization.get("bnb_4bit_quant_storage") or "uint8").removeprefix("torch.")
    if method == "bitsandbytes" and quantization.get("load_in_4bit") and storage != "uint8":
        return f"keeps its 4 bit weights as {storage} (bnb_4bit_quant_storage), and uint8 is read"
    return None
