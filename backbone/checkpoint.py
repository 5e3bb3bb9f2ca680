"""Checkpoints: Hugging Face folders found, checked, and read tensor by tensor into a Network."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.config import NetworkConfig, config_file
from backbone.errors import CheckpointError, MissingExtra, cause, require_few_tensors
from backbone.file_reading import MAX_CONFIG_BYTES, read_bytes, read_text
from backbone.files import parse_json as parse_json
from backbone.stored_parts import Parts, StoredPiece, separated
from backbone.tensor_shard import TensorShard

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from backbone.network import Network

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

# A language model inside a vision-language checkpoint has one more name in front, old or new.
_PREFIX = re.compile(r"^(language_model\.|model\.language_model\.)?(model\.)?")
_SIGHT = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")
_WHOLE_FILE_BYTES = 64 << 20
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 256


# A quantized matrix as the layers that a Network has for it; None for plain weights.
AsLayers = Callable[[str, Parts], "Mapping[str, nn.Module] | None"]


def load_network(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: TensorShard | None = None,
) -> Network:
    """Read a folder's weights straight to `device` and `dtype` (None: float32), ready to run.

    With a `share`, the network is that share of every layer's heads and channels, and nothing else
    is read. Raises CheckpointError for whatever cannot be run, quantized weights among it, and
    ShardError where the layers cannot be shared so.
    """
    shards = weight_files(folder)
    with _extra_named(), ExitStack() as stack:
        config = NetworkConfig.load(folder)
        modules = separated(stored_modules(shards, stack), config)
        return fill_network(config, modules, device=device, dtype=dtype, share=share)


def fill_network(
    config: NetworkConfig,
    modules: Iterable[tuple[str, Parts]],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: TensorShard | None = None,
    as_layers: AsLayers = lambda module, parts: None,
) -> Network:
    """Return a network of the weights of `modules`, each put in place as it is read.

    No second copy of the weights is ever held. `as_layers` is asked for each module first: what it
    returns stands for plain linear layers. Raises as load_network does.
    """
    import torch

    from backbone.network import Network
    from backbone.rotary import inverse_frequencies

    share = share or TensorShard()
    config = share.of_config(config)
    with torch.device("meta"):
        network = Network(config)
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    missing = set(expected)
    for module, parts in modules:
        if (layers := as_layers(module, parts)) is not None:
            for name, layer in layers.items():
                _replace(network, name, layer.to(device))
                missing -= {f"{name}.weight", f"{name}.bias"}
            continue
        for leaf, piece in parts.items():
            name = f"{module}.{leaf}"
            if _is_derived(name, tied=config.tie_word_embeddings):
                continue
            if name not in expected:
                raise CheckpointError(
                    f"{piece.file} holds an unexpected tensor {piece.name}; its config.json "
                    "belongs to another model, or the weights are quantized"
                )
            tensor = share.of_tensor(name, piece.read, expected[name])
            _place(network, name, _checked(name, tensor, device, dtype))
            missing.discard(name)
    _require_all(missing)
    if config.tie_word_embeddings:
        network.lm_head.weight = network.embed_tokens.weight
    network.inverse = inverse_frequencies(config).to(device)
    return network.eval().requires_grad_(False)


@contextmanager
def _extra_named() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, every one of them present."""
    config_file(folder)
    if (folder / INDEX_NAME).is_file():
        return _indexed_shards(folder)
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise CheckpointError(
            f"{folder} holds pickled weights, which can run code when read; convert them to "
            "safetensors (transformers: save_pretrained) or fetch the safetensors revision"
        )
    raise CheckpointError(f"{folder} has no {SINGLE_NAME}; fetch the model again")


def fingerprint(folder: Path) -> str:
    """Return a model's stable id: sha256 (hex) of its config, tensor headers and weight bytes.

    Of files above 64 MiB, evenly spaced samples stand for the bytes.
    """
    digest = hashlib.sha256()
    shards = weight_files(folder)
    digest.update(read_bytes(folder / "config.json", MAX_CONFIG_BYTES))
    for path in shards:
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode())
        for piece in sampled(path, size):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file; a missing file is an empty one."""
    if not path.is_file():
        return {}
    try:
        raw = parse_json(read_text(path, MAX_CONFIG_BYTES, pipes=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({cause(error)}); fetch it again"
        ) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} is not a JSON object; fetch it again")
    return raw


def _indexed_shards(folder: Path) -> list[Path]:
    names = read_json(folder / INDEX_NAME).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{folder / INDEX_NAME} has no weight_map; fetch the model again")
    shards = sorted({str(name) for name in names.values()})
    for name in shards:
        # A name with a path in it could reach outside the folder.
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"the shard {name} is missing in {folder}; fetch it again")
    return [folder / name for name in shards]


def sampled(path: Path, size: int) -> Iterator[bytes]:
    """Yield a file's bytes; of a large one its beginning and evenly spaced samples."""
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            yield from iter(lambda: file.read(1 << 20), b"")
            return
        header_bytes = int.from_bytes(file.read(8), "little")
        yield file.read(min(header_bytes, _WHOLE_FILE_BYTES))
        for i in range(_NUM_SAMPLES):
            file.seek(i * (size - _SAMPLE_BYTES) // (_NUM_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def stored_modules(shards: Iterable[Path], stack: ExitStack) -> Iterator[tuple[str, Parts]]:
    """Yield each module's name in a Network with its tensors; the files stay open in `stack`."""
    modules: dict[str, dict[str, StoredPiece]] = {}
    num_tensors = 0
    for path in shards:
        file = stack.enter_context(open_safetensors(path))
        names = file.keys()
        num_tensors += len(names)
        require_few_tensors(path.parent, num_tensors)
        for hf_name in names:
            if not _SIGHT.match(hf_name):
                module, leaf = _split(_PREFIX.sub("", hf_name))
                piece = StoredPiece(hf_name, path.name, file.get_slice(hf_name))
                modules.setdefault(module, {})[leaf] = piece
    while modules:
        # Dropped as they are used: a slice may hold on to its bytes.
        module = next(iter(modules))
        yield module, modules.pop(module)


def _split(name: str) -> tuple[str, str]:
    head, quantized, rest = name.partition(".weight.")
    if quantized:  # bitsandbytes keeps what belongs to a weight below its name
        return head, f"weight.{rest}"
    module, _, leaf = name.rpartition(".")
    return module, leaf


def open_safetensors(path: Path) -> Any:
    """Return the handle of a safetensors file. Raises CheckpointError where it is damaged."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtra("safetensors", "cloud") from None
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({cause(error)}); fetch the file again"
        ) from None


def _is_derived(name: str, *, tied: bool) -> bool:
    # Old checkpoints store rotary tables; tied ones sometimes store the shared head twice.
    return name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")


def _checked(
    name: str, tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None
) -> Tensor:
    import torch

    if not tensor.is_floating_point():
        raise CheckpointError(
            f"the tensor {name} holds {tensor.dtype}; use the model's unquantized weights"
        )
    # Copied, so that the network does not hang on the mapped file.
    placed = tensor.to(device=device, dtype=dtype or torch.float32, copy=True)
    # The least and the largest show it in one pass: NaN is both.
    if placed.numel() and not all(map(math.isfinite, torch.stack(placed.aminmax()).tolist())):
        raise CheckpointError(
            f"the tensor {name} holds NaN or infinite weights; fetch the model again"
        )
    return placed


def _place(network: Network, name: str, tensor: Tensor) -> None:
    from torch import nn

    module_name, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module_name), leaf, nn.Parameter(tensor, requires_grad=False))


def _replace(network: Network, module: str, layer: nn.Module) -> None:
    parent, _, leaf = module.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)


def _require_all(missing: set[str]) -> None:
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise CheckpointError(
            f"{len(missing)} tensors are missing ({some}, ...); a shard was not fetched, or "
            "config.json belongs to another model"
        )
