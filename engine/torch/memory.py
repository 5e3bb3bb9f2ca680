"""The memory plan of a model: what it will take, predicted before any of it is taken.

On a CPU the largest steps are tried on one empty layer, and what is resident is measured. For a GPU
one is run without storage, on torch's meta device: every tensor that it would make is counted while
it would live. What kernels take for themselves inside is not seen there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbone.config import NetworkConfig
from backbone.cpu_network import fits_cpu_network
from backbone.errors import CheckpointError
from backbone.fused_network import FusedNetwork
from backbone.network import Network
from backbone.process_limits import free_memory_bytes
from backbone.sampling import confidence
from backbone.terminal_text import readable_bytes
from engine.torch.kv.kv_cache import block_bytes, span_of, usable_bytes
from engine.torch.options import EngineOptions
from engine.torch.process_memory import is_measurable
from quantize.model_files import ModelFiles, model_files


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory plan in bytes; `activation_bytes` is the peak of the largest step."""

    weight_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int
    num_blocks: int
    total_bytes: int
    usable_bytes: int  # what the engine may take of what is free now
    max_model_len: int
    largest_batch: int  # answers at once, each as long as max_model_len
    fits: bool

    def as_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return asdict(self)


def plan_memory(folder: Path, options: EngineOptions) -> MemoryPlan:
    """Predict what CloudEngine(folder, options=options) takes.

    On a CPU this takes a few seconds. Raises CheckpointError or SettingsError, as the engine would.
    """
    files = model_files(folder)
    config = options.as_run(files.network_config())
    max_model_len = options.model_len(config)
    if files.quantization_config():
        weights = files.weight_bytes(options.torch_dtype())
    else:
        weights = weight_bytes(config, max_model_len, options)
    if options.torch_device().type == "cpu" and is_measurable():
        activations = measured_activation_bytes(folder, options)
    else:
        activations = activation_bytes(config, max_model_len, options)
    usable = usable_bytes(options.torch_device(), options.gpu_memory_utilization)
    per_block = block_bytes(config, options.block_size, options.cache_dtype())
    span = span_of(config, options.block_size)
    per_sequence = span.most_at_once(max_model_len, options.step_tokens())
    room = max(0, usable - weights - activations) // per_block - 1
    wanted = options.num_gpu_blocks_override or per_sequence * options.max_num_seqs
    num_blocks = options.num_gpu_blocks_override or max(0, min(room, wanted))
    kv_bytes = (num_blocks + 1) * per_block
    total = weights + activations + kv_bytes
    return MemoryPlan(
        weight_bytes=weights,
        activation_bytes=activations,
        kv_bytes_per_token=per_block // options.block_size,
        kv_bytes=kv_bytes,
        num_blocks=num_blocks,
        total_bytes=total,
        usable_bytes=usable,
        max_model_len=max_model_len,
        largest_batch=min(num_blocks // per_sequence, options.max_num_seqs),
        fits=num_blocks >= per_sequence and total <= usable,
    )


def require_memory(files: ModelFiles, options: EngineOptions) -> None:
    """Raise CheckpointError for weights that the free memory does not hold, with what would fit."""
    device, dtype = options.torch_device(), options.torch_dtype()
    needed = files.weight_bytes(dtype) // options.tensor_parallel_size
    if device.type == "cpu":
        free = free_memory_bytes()
    else:
        free = usable_bytes(device, options.gpu_memory_utilization)
    if needed <= free:
        return
    is_plain = not files.quantization_config()
    if dtype.itemsize > 2 and is_plain and needed // 2 <= free:
        remedy = "set --engine dtype=bfloat16, which takes half"
    elif is_plain and needed // dtype.itemsize * 5 // 8 <= free:  # four bits and scales
        remedy = "make a folder in 4 bits of it with `nearfar quantize gptq`"
    else:
        remedy = "close programs, or choose a smaller model"
    raise CheckpointError(
        f"the weights of {files.path.name} take {readable_bytes(needed)} in "
        f"{str(dtype).removeprefix('torch.')} and {readable_bytes(free)} are free; {remedy}"
    )


def weight_bytes(config: NetworkConfig, max_model_len: int, options: EngineOptions) -> int:
    """Return the bytes of all weights, and of the rotary table that a fused network holds."""
    with torch.device("meta"):
        network = Network(config)
    num_weights = sum(weight.numel() for weight in network.parameters())
    num_bases = 1 if config.local_rope_theta is None else 2
    # Of each angle cosine and sine, in most networks for both of the channels that it turns.
    dtype = options.torch_dtype()
    on_cpu = fits_cpu_network(config, options.torch_device(), dtype)
    per_angle = torch.float32.itemsize if on_cpu else 2 * dtype.itemsize
    table = per_angle * num_bases * max_model_len * config.head_dim
    return num_weights * dtype.itemsize + table * options.fuses


def measured_activation_bytes(folder: Path, options: EngineOptions) -> int:
    """Return what is resident at the peak of the largest steps beside weights and cache.

    Measured by a process of its own (engine.torch.memory_probe). Raises CheckpointError.
    """
    job = {
        "folder": str(folder.resolve()),
        "options": asdict(options),
        "num_threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "engine.torch.memory_probe"]
    done = subprocess.run(
        command, input=json.dumps(job) + "\n", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CheckpointError(
            f"the largest step of {folder} could not be tried (exit status {done.returncode}); "
            "free memory, or lower max_num_batched_tokens or max_model_len"
        )
    return int(json.loads(done.stdout)["bytes"])


def activation_bytes(config: NetworkConfig, max_model_len: int, options: EngineOptions) -> int:
    """Return the most that the tensors of the largest step take at one time."""
    with torch.device("meta"):
        network: Any = Network(config).to(options.torch_dtype()).requires_grad_(False)
        network.inverse = network.inverse.float()
        if options.fuses:
            network = FusedNetwork(network, max_model_len)
    return peak_bytes(lambda: run_largest_step(network, options, max_model_len, _attend_unseen))


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that the tensors made by `work` hold at one time."""
    with _PeakCounter() as peak:
        work()
    return int(peak.peak_bytes)


@torch.inference_mode()
def run_largest_step(
    network: Network | FusedNetwork,
    options: EngineOptions,
    max_model_len: int,
    attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
) -> None:
    """Run a dummy step of the largest size, so that its peak shows in the device's books."""
    device, num_tokens = network.inverse.device, options.step_tokens()
    tokens = torch.zeros(num_tokens, dtype=torch.int64, device=device)
    positions = torch.arange(num_tokens, device=device) % max_model_len
    hidden = network(tokens, positions, attend)
    logits = network.logits(hidden[: options.max_num_seqs])
    confidence(logits, logits.argmax(-1))


def _attend_unseen(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # A fused kernel holds its result, and no scores; its meta twin would hold them all.
    return torch.empty_like(q)


class _PeakCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storage of every tensor made inside, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._now = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_name(tensor) for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            if _name(tensor) not in given:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self._known:
            return
        self._known[name] = weakref.finalize(storage, self._forget, name, size)
        self._now += size
        self.peak_bytes = max(self.peak_bytes, self._now)

    def _forget(self, name: int, size: int) -> None:
        del self._known[name]
        self._now -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _name(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
