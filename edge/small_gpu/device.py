"""torch device: which one a folder runs on, in which precision, and its free memory."""

from __future__ import annotations

import torch

from backbone.config import NetworkConfig
from backbone.process_limits import free_memory_bytes
from edge.small_gpu.options import MAX_LEN, MIN_LEN, TorchOptions
from engine.engine_choice import CHOICES_FILE
from engine.torch.auto_choice import settled
from engine.torch.options import EngineOptions
from offload.config.places import places
from offload.errors import SettingsError
from quantize.model_files import ModelFiles


def device_of(options: TorchOptions) -> torch.device:
    """Return the device asked for; "auto" is CUDA where there is one. Raises SettingsError."""
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(options.device)
    except RuntimeError:
        raise SettingsError(f"device {options.device!r} is unknown; use cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"device {options.device!r} cannot run this; use cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device is {options.device} and torch sees {torch.cuda.device_count()} GPUs; use cpu, "
            "or auto"
        )
    return device


def dtype_of(options: TorchOptions, device: torch.device, files: ModelFiles) -> torch.dtype:
    """Return the precision asked for; "auto" is float32 or bfloat16 on a CPU, as measured.

    On a GPU it is bfloat16, and float16 on those before Ampere, which compute no bfloat16.
    """
    if options.dtype != "auto":
        dtype = getattr(torch, options.dtype)
        assert isinstance(dtype, torch.dtype), "options checks the names"
        return dtype
    if device.type == "cpu":
        asked = EngineOptions(
            device="cpu",
            attention_backend="torch",
            max_num_seqs=options.max_num_seqs,
            fuse_operators=True,
        )
        return settled(files, asked, places().cache / CHOICES_FILE)[0].torch_dtype()
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16


def free_bytes_of(device: torch.device) -> int:
    """Return the bytes that can still be had on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory_bytes()


def context_len(config: NetworkConfig, options: TorchOptions) -> int:
    """Return the longest context. Raises SettingsError for one that makes no sense."""
    trained = min(config.max_position_embeddings, MAX_LEN)
    if trained < MIN_LEN or 0 < options.max_model_len < MIN_LEN:
        raise SettingsError(f"a context must hold at least {MIN_LEN} tokens; set max_model_len")
    if options.max_model_len > trained:
        raise SettingsError(
            f"max_model_len is {options.max_model_len} and the model was trained for {trained}; "
            "choose at most that"
        )
    return options.max_model_len or trained
