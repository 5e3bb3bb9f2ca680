"""Loading of a model's weights, in full precision or quantized, as a network that runs.

Each matrix becomes a plain linear layer, or one whose weight stays in 4 or 8 bits (GPTQ,
bitsandbytes); a GGUF file's are decoded as they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import re2
import torch
from torch import Tensor, nn

from backbone.checkpoint import fill_network
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, cause
from backbone.files import parse_json as parse_json
from backbone.network import Network
from backbone.stored_parts import Parts, rows_of, separated
from backbone.tensor_shard import TensorShard, cut_dim
from quantize.gptq_format import unpack
from quantize.packed_products import FastInt4Linear, FastInt8Linear, quickest
from quantize.quantized_linear import CodedLinear, GptqLinear, Int8Linear, TableLinear

if TYPE_CHECKING:
    from quantize.model_files import ModelFiles

Tensors = Mapping[str, Tensor]
_NUM_CODES = 16  # of four bits


def read_network(
    files: ModelFiles,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: TensorShard | None = None,
    made: Callable[[CodedLinear], nn.Module] = quickest,
) -> Network:
    """Return the network of a model's files, or a share of it.

    `made` makes the layers of quantized matrices: packed products that compute the same, unless
    told otherwise. Raises CheckpointError for whatever
    cannot be run, ShardError where the layers cannot be shared so.
    """
    config = files.network_config()
    quantization = files.quantization_config()
    makes = _LayerMaker(config, quantization, share or TensorShard(), made, device)
    with ExitStack() as stack:
        return fill_network(
            config,
            separated(files.modules(stack), config),
            device=device,
            dtype=dtype,
            share=share,
            as_layers=makes.layers,
        )


def has_coded_layers(network: Network) -> bool:
    """Whether any matrix of a network stays in few bits."""
    kinds = (CodedLinear, FastInt4Linear, FastInt8Linear)
    return any(isinstance(module, kinds) for module in network.modules())


def as_coded(layer: CodedLinear) -> CodedLinear:
    """Return a quantized layer as it is, to compare others with."""
    return layer


def as_decoded(layer: CodedLinear) -> nn.Linear:
    """Return a quantized layer as a plain one in float32."""
    rows, columns = layer.shape
    plain = nn.Linear(columns, rows, bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(layer.weight_float(), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.float(), requires_grad=False)
    return plain


class _LayerMaker:
    """Makes the layers of quantized matrices, each cut to this process's share."""

    def __init__(
        self,
        config: NetworkConfig,
        quantization: Mapping[str, Any],
        share: TensorShard,
        made: Callable[[CodedLinear], nn.Module],
        device: torch.device | str,
    ) -> None:
        self._device = device
        self._config, self._quantization = config, quantization
        self._share, self._made = share, made
        with torch.device("meta"):
            self._plain = Network(share.of_config(config))

    def layers(self, module: str, parts: Parts) -> dict[str, nn.Module] | None:
        """See backbone.checkpoint.AsLayers."""
        if not self._quantization or (set(parts) <= {"weight", "bias"} and _is_float(parts)):
            return None
        tensors: dict[str, Tensor] = {leaf: piece.read[:] for leaf, piece in parts.items()}
        whole = coded_linear(module, tensors, self._quantization)
        fused = rows_of(module, self._config)
        pieces = {name: whole.rows(rows) for name, rows in fused.items()} or {module: whole}
        return {name: self._shared(name, piece) for name, piece in pieces.items()}

    def _shared(self, module: str, layer: CodedLinear) -> nn.Module:
        layer = share_of_layer(module, layer, self._share)
        self._require_place(module, layer)
        # Where it will run: each device has products of its own.
        return self._made(layer.to(self._device))

    def _require_place(self, module: str, layer: CodedLinear) -> None:
        """Raise CheckpointError where config.json has no such matrix, or one of another size."""
        try:
            plain = self._plain.get_submodule(module)
        except AttributeError:
            raise CheckpointError(
                f"matrix {module} belongs to another kind of model; fetch it again"
            ) from None
        expected = tuple(plain.weight.shape) if isinstance(plain, nn.Linear) else ()
        bias = layer.bias
        if layer.shape != expected or (bias is not None and bias.numel() != expected[0]):
            raise CheckpointError(
                f"matrix {module} is {list(layer.shape)} and config.json asks for "
                f"{list(expected)}; fetch the model again"
            )


def _is_float(parts: Parts) -> bool:
    return all(piece.read.get_dtype() in ("F64", "F32", "F16", "BF16") for piece in parts.values())


def share_of_layer(module: str, layer: CodedLinear, share: TensorShard) -> CodedLinear:
    """Return the rows or columns of a quantized matrix that one of several processes holds."""
    dim = cut_dim(f"{module}.weight") if share.size > 1 else None
    if dim is None:
        return layer
    size = layer.shape[dim] // share.size
    part = slice(share.rank * size, (share.rank + 1) * size)
    if dim == 0:
        return layer.rows(part)
    return layer.columns(part, with_bias=share.rank == 0)


def coded_linear(module: str, parts: Tensors, config: Mapping[str, Any]) -> CodedLinear:
    """Return the layer of one quantized matrix. Raises CheckpointError."""
    bias = parts.get("bias")
    if bias is not None and not bool(bias.any()):
        bias = None  # some savers write zeros for layers that have none
    try:
        if config["quant_method"] == "gptq":
            return _gptq_linear(parts, settings_of(module, config), bias)
        if "SCB" in parts:
            return Int8Linear(parts["weight"], parts["SCB"], bias=bias)
        return _table_linear(parts, bias)
    # The file is a stranger's: its sizes, places and settings may be anything.
    except (
        *(LookupError, StopIteration, ValueError, TypeError, RuntimeError),
        *(ArithmeticError, AttributeError),
    ) as error:
        raise CheckpointError(
            f"the {config['quant_method']} weight of {module} cannot be read ({cause(error)}); "
            "quantize it again"
        ) from None


def settings_of(module: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how one module is quantized: `dynamic` overrides the settings by regular expression.

    The first that matches the module's name from its start counts, as in GPTQModel. One that
    begins with "-:" leaves a module as it was, and then nothing of it is quantized.
    """
    name = module if module == "lm_head" else f"model.{module}"
    for pattern, changes in (config.get("dynamic") or {}).items():
        # The file is a stranger's: re2 takes linear time for any of its expressions.
        try:
            found = re2.match(str(pattern).removeprefix("+:").removeprefix("-:"), name)
        except re2.error:
            raise CheckpointError(
                f"dynamic in config.json has {pattern!r}, which is no regular expression that can "
                "be read; quantize the original with `nearfar quantize gptq`"
            ) from None
        if found:
            return {**config, **(changes or {})}
    return dict(config)


def _gptq_linear(parts: Tensors, config: Mapping[str, Any], bias: Tensor | None) -> GptqLinear:
    matrix = unpack(parts, config)
    if matrix.group_of.numel() != matrix.codes.shape[1]:
        raise ValueError("its g_idx has another size")
    if not 0 <= int(matrix.group_of.min()) <= int(matrix.group_of.max()) < len(matrix.scales):
        raise ValueError("its g_idx names groups that are not there")
    return GptqLinear(matrix, bits=int(config["bits"]), bias=bias)


def _table_linear(parts: Tensors, bias: Tensor | None) -> TableLinear:
    described = next(t for name, t in parts.items() if name.startswith("weight.quant_state."))
    state = parse_json(bytes(described.tolist()))
    scales = parts["weight.absmax"]
    if "weight.nested_absmax" in parts:  # the scales are themselves 8 bit, block by block
        values = parts["weight.nested_quant_map"].float()[scales.int()]
        blocks = torch.arange(len(scales)) // int(state["nested_blocksize"])
        scales = values * parts["weight.nested_absmax"][blocks] + float(state["nested_offset"])
    rows, columns = map(int, state["shape"])
    table = parts["weight.quant_map"]
    if table.numel() != _NUM_CODES:
        raise ValueError(f"its table has {table.numel()} values")
    # Whatever type they are stored as (bnb_4bit_quant_storage), they are two codes a byte.
    packed = parts["weight"].contiguous().view(torch.uint8)
    if 2 * packed.numel() != rows * columns or rows * columns % len(scales):
        raise ValueError("its parts differ in size")
    return TableLinear(packed, table, scales, shape=(rows, columns), bias=bias)
