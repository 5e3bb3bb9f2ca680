"""Checkpoints: Hugging Face folders found, checked, and read tensor by tensor into a Network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.config import NetworkConfig
from backbone.errors import CheckpointError, MissingExtra, cause
from backbone.files import parse_json as parse_json
from backbone.tensor_shard import TensorShard

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from backbone.network import Network

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

# A language model inside a vision-language checkpoint has one more name in front, old or new.
_PREFIX = re.compile(r"^(language_model\.|model\.language_model\.)?(model\.)?")
_SIGHT = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector)\.")
_WHOLE_FILE_BYTES = 64 << 20
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 256


def load_network(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    share: TensorShard | None = None,
) -> Network:
    """Read a folder's weights straight to `device` and `dtype` (None: float32), ready to run.

    No second copy of the weights is ever held: the network is built without storage, and each
    tensor is put in place as it is read. With a `share`, the network is that share of every
    layer's heads and channels, and nothing else is read. Raises CheckpointError for whatever
    cannot be run, and ShardError where the layers cannot be shared so.
    """
    try:
        import torch

        from backbone.network import Network
        from backbone.rotary import inverse_frequencies
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    shards = weight_files(folder)
    share = share or TensorShard()
    config = share.of_config(NetworkConfig.load(folder))
    with torch.device("meta"):
        network = Network(config)
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    loaded = set()
    for name, read in _tensors(shards, expected, tied=config.tie_word_embeddings):
        tensor = share.of_tensor(name, read, expected[name])
        _place(network, name, _checked(name, tensor, device, dtype))
        loaded.add(name)
    _require_all(expected.keys() - loaded)
    if config.tie_word_embeddings:
        network.lm_head.weight = network.embed_tokens.weight
    network.inverse = inverse_frequencies(config).to(device)
    return network.eval().requires_grad_(False)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, every one of them present."""
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; name a Hugging Face model folder")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no config.json; name a Hugging Face folder"
        )
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
    digest.update((folder / "config.json").read_bytes())
    for path in shards:
        size = path.stat().st_size
        digest.update(f"\0{path.name}\0{size}\0".encode())
        for piece in _sampled(path, size):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a checkpoint's file; a missing file is an empty one."""
    if not path.is_file():
        return {}
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch it again") from None
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


def _sampled(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_BYTES:
            yield from iter(lambda: file.read(1 << 20), b"")
            return
        header_bytes = int.from_bytes(file.read(8), "little")
        yield file.read(min(header_bytes, _WHOLE_FILE_BYTES))
        for i in range(_NUM_SAMPLES):
            file.seek(i * (size - _SAMPLE_BYTES) // (_NUM_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _tensors(
    shards: list[Path], expected: dict[str, tuple[int, ...]], *, tied: bool
) -> Iterator[tuple[str, Any]]:
    """Yield (our name, a slice of the file) of every wanted tensor; one shard is open at a time."""
    for path in shards:
        with ExitStack() as stack:
            file = stack.enter_context(_open(path))
            for hf_name in file.keys():  # noqa: SIM118 - the handle is no dict
                name = _PREFIX.sub("", hf_name)
                if _is_derived(name, tied=tied) or _SIGHT.match(hf_name):
                    continue
                if name not in expected:
                    raise CheckpointError(
                        f"{path.name} holds an unexpected tensor {hf_name}; its config.json "
                        "belongs to another model, or the weights are quantized"
                    )
                yield name, file.get_slice(hf_name)


def _open(path: Path) -> Any:
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
    if not bool(torch.isfinite(placed).all()):
        raise CheckpointError(
            f"the tensor {name} holds NaN or infinite weights; fetch the model again"
        )
    return placed


def _place(network: Network, name: str, tensor: Tensor) -> None:
    from torch import nn

    module_name, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module_name), leaf, nn.Parameter(tensor, requires_grad=False))


def _require_all(missing: set[str]) -> None:
    if missing:
        some = ", ".join(sorted(missing)[:3])
        raise CheckpointError(
            f"{len(missing)} tensors are missing ({some}, ...); a shard was not fetched, or "
            "config.json belongs to another model"
        )
