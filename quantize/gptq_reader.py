"""GPTQ reader: a folder of any version as a float32 network; kinds not read are refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, MissingExtra
from backbone.network import Network
from quantize.gptq_format import PARTS, unpack
from quantize.weights import read_config


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


def load_gptq_network(folder: Path) -> Network:
    """Return the network of a GPTQ folder, its matrices dequantized to float32."""
    quantization = read_config(folder).get("quantization_config") or {}
    if quantization.get("quant_method") != "gptq":
        raise CheckpointError(f"{folder} is no GPTQ checkpoint; name a folder that is one")
    check_readable(folder, quantization)
    network = Network(NetworkConfig.load(folder))
    missing = network.load_state_dict(dict(dequantized(folder, quantization)), strict=False)
    tied = {"lm_head.weight"} if network.config.tie_word_embeddings else set()
    if set(missing.missing_keys) - tied or missing.unexpected_keys:
        names = [*missing.missing_keys, *missing.unexpected_keys]
        raise CheckpointError(f"{folder} does not fit its config.json ({names[0]}); fetch it again")
    return network.eval().requires_grad_(False)


def dequantized(folder: Path, quantization: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a GPTQ folder by its name in a Network, float32."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _stored(folder):
        module, _, leaf = name.rpartition(".")
        if leaf not in PARTS:
            yield name.removeprefix("model."), tensor.float()
            continue
        found = parts.setdefault(module, {})
        found[leaf] = tensor
        if len(found) == len(PARTS):
            matrix = unpack(parts.pop(module), quantization)
            yield f"{module.removeprefix('model.')}.weight", matrix.dequantized()
    if parts:
        unpack(next(iter(parts.values())), quantization)  # names what is missing


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtra("safetensors", "quantize") from None
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no .safetensors file; fetch the model again")
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is no dict
                    if not name.endswith(".bias") or bool(torch.any(file.get_tensor(name))):
                        yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}); fetch it again") from None
