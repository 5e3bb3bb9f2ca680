"""Loading of a Hugging Face folder, in full precision or quantized, as a network that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backbone.checkpoint import load_network, weight_files
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, cause
from backbone.files import parse_json as parse_json
from backbone.network import Network
from backbone.rotary import inverse_frequencies
from edge.small_gpu.fast_linear import quickest
from edge.small_gpu.linear import CodedLinear, GptqLinear, Int8Linear, TableLinear
from quantize.gptq_format import unpack
from quantize.gptq_reader import check_readable
from quantize.weights import read_config

Parts = Mapping[str, Tensor]


def quantization_of(folder: Path) -> dict[str, Any]:
    """Return the folder's `quantization_config`; empty where it is in full precision.

    Raises CheckpointError for a kind that is not read here.
    """
    config = dict(read_config(folder).get("quantization_config") or {})
    check_readable(folder, config)
    return config


def quantization_name(folder: Path) -> str:
    """Return what a person calls the folder's numbers: "gptq int4", "nf4", "bfloat16"."""
    config = quantization_of(folder)
    if config.get("quant_method") == "gptq":
        return f"gptq int{config.get('bits', '?')}"
    if config.get("load_in_8bit"):
        return "int8"
    if config:
        return str(config.get("bnb_4bit_quant_type", config.get("quant_method")))
    raw = read_config(folder)
    return str(raw.get("dtype") or raw.get("torch_dtype") or "float32")


def load(folder: Path, *, device: torch.device, dtype: torch.dtype, fast: bool = True) -> Network:
    """Return the network of a folder; 4 and 8 bit weights of GPTQ and bitsandbytes stay so.

    Raises CheckpointError for whatever cannot be run.
    """
    config = quantization_of(folder)
    if not config:
        return load_network(folder, device=device, dtype=dtype)
    if config.get("quant_method") not in ("gptq", "bitsandbytes"):
        raise CheckpointError(
            f"{folder} is quantized by {config.get('quant_method')!r}; the torch runtime reads "
            "gptq and bitsandbytes, so quantize the original with `nearfar quantize gptq`"
        )
    with torch.device("meta"):
        network = Network(NetworkConfig.load(folder))
    missing = {name for name, _ in network.named_parameters()}
    for module, parts in _modules(folder, tied=network.config.tie_word_embeddings):
        if _is_plain(parts):
            for leaf, tensor in parts.items():
                name = f"{module}.{leaf}"
                _place(network, name, tensor.to(device=device, dtype=dtype))
                missing.discard(name)
            continue
        layer = coded_linear(module, parts, config)
        _require_place(network, module, layer)
        layer.to(device)
        _replace(network, module, quickest(layer) if fast else layer)
        missing -= {f"{module}.weight", f"{module}.bias"}
    if missing:
        raise CheckpointError(f"{folder} lacks the tensor {min(missing)}; fetch the model again")
    if network.config.tie_word_embeddings:
        network.lm_head.weight = network.embed_tokens.weight
    network.inverse = inverse_frequencies(network.config).to(device)
    return network.eval().requires_grad_(False)


def _is_plain(parts: Parts) -> bool:
    return set(parts) <= {"weight", "bias"} and all(t.is_floating_point() for t in parts.values())


def coded_linear(module: str, parts: Parts, config: Mapping[str, Any]) -> CodedLinear:
    """Return the plain layer of one quantized matrix. Raises CheckpointError."""
    bias = parts.get("bias")
    if bias is not None and not bool(bias.any()):
        bias = None  # some savers write zeros for layers that have none
    try:
        if config["quant_method"] == "gptq":
            return _gptq_linear(parts, config, bias)
        if "SCB" in parts:
            return Int8Linear(parts["weight"], parts["SCB"], bias=bias)
        return _table_linear(parts, bias)
    except (KeyError, StopIteration, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"the {config['quant_method']} weight of {module} cannot be read ({cause(error)}); "
            "quantize it again"
        ) from None


def _gptq_linear(parts: Parts, config: Mapping[str, Any], bias: Tensor | None) -> GptqLinear:
    matrix = unpack(parts, config)
    if matrix.group_of.numel() != matrix.codes.shape[1]:
        raise ValueError("its g_idx has another size")
    if not 0 <= int(matrix.group_of.min()) <= int(matrix.group_of.max()) < len(matrix.scales):
        raise ValueError("its g_idx names groups that are not there")
    return GptqLinear(matrix, bits=int(config["bits"]), bias=bias)


def _table_linear(parts: Parts, bias: Tensor | None) -> TableLinear:
    described = next(t for name, t in parts.items() if name.startswith("weight.quant_state."))
    state = parse_json(bytes(described.tolist()))
    scales = parts["weight.absmax"]
    if "weight.nested_absmax" in parts:  # the scales are themselves 8 bit, block by block
        values = parts["weight.nested_quant_map"].float()[scales.int()]
        blocks = torch.arange(len(scales)) // int(state["nested_blocksize"])
        scales = values * parts["weight.nested_absmax"][blocks] + float(state["nested_offset"])
    rows, columns = state["shape"]
    table = parts["weight.quant_map"]
    if 2 * parts["weight"].numel() != rows * columns or rows * columns % len(scales):
        raise ValueError("its parts differ in size")
    return TableLinear(parts["weight"], table, scales, shape=(rows, columns), bias=bias)


def _modules(folder: Path, *, tied: bool) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each module's name in a Network with its tensors, one module in memory at a time."""
    with ExitStack() as stack:
        files = [_opened(path, stack) for path in weight_files(folder)]
        places: dict[str, dict[str, tuple[Any, str]]] = {}
        for file in files:
            for name in file.keys():  # noqa: SIM118 - the handle is no dict
                module, leaf = _split(name.removeprefix("model."))
                if not (tied and module == "lm_head") and leaf != "inv_freq":
                    places.setdefault(module, {})[leaf] = (file, name)
        for module, found in places.items():
            yield module, {leaf: file.get_tensor(name) for leaf, (file, name) in found.items()}


def _opened(path: Path, stack: ExitStack) -> Any:
    try:
        return stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({cause(error)}); fetch the file again") from None


def _split(name: str) -> tuple[str, str]:
    head, quantized, rest = name.partition(".weight.")
    if quantized:  # bitsandbytes keeps what belongs to a weight below its name
        return head, f"weight.{rest}"
    module, _, leaf = name.rpartition(".")
    return module, leaf


def _place(network: Network, name: str, tensor: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    try:
        expected = network.get_parameter(name)
    except AttributeError:
        raise CheckpointError(
            f"tensor {name} belongs to another kind of model; fetch the model again"
        ) from None
    if expected.shape != tensor.shape:
        raise CheckpointError(
            f"tensor {name} is {list(tensor.shape)} and config.json asks for "
            f"{list(expected.shape)}; fetch the model again"
        )
    setattr(network.get_submodule(module), leaf, nn.Parameter(tensor, requires_grad=False))


def _require_place(network: Network, module: str, layer: CodedLinear) -> None:
    """Raise CheckpointError where config.json has no such matrix, or one of another size."""
    try:
        plain = network.get_submodule(module)
    except AttributeError:
        raise CheckpointError(
            f"matrix {module} belongs to another kind of model; fetch it again"
        ) from None
    expected = tuple(plain.weight.shape) if isinstance(plain, nn.Linear) else ()
    if layer.shape != expected or (layer.bias is not None and layer.bias.numel() != expected[0]):
        raise CheckpointError(
            f"matrix {module} is {list(layer.shape)} and config.json asks for {list(expected)}; "
            "fetch the model again"
        )


def _replace(network: Network, module: str, layer: nn.Module) -> None:
    parent, _, leaf = module.rpartition(".")
    try:
        setattr(network.get_submodule(parent), leaf, layer)
    except AttributeError:
        raise CheckpointError(
            f"matrix {module} belongs to another kind of model; fetch the model again"
        ) from None
