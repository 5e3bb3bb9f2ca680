"""Importance measurement: the calibration pass that makes an importance matrix."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from backbone.checkpoint import fingerprint
from backbone.network import DecoderLayer
from quantize.architectures import architecture_of, gguf_name
from quantize.block_stream import BlockStream, StateFile
from quantize.calibration import (
    INPUT_GROUPS,
    CalibrationOptions,
    Progress,
    Walk,
    longest_window,
    windows_of,
)
from quantize.calibration_text import default_text
from quantize.importance import Importance
from quantize.weights import read_config


def measure_importance(
    folder: Path,
    text: str | None = None,
    *,
    options: CalibrationOptions | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    state_file: Path | None = None,
) -> Importance:
    """Run text (None: the embedded one) through an HF folder and look at every matrix's inputs.

    With `state_file` the state after each block is kept there, and an interrupted run goes on
    from it. Raises CheckpointError for a folder that cannot be run, NearfarError for a text
    shorter than one window.
    """
    options = options or CalibrationOptions()
    text = default_text() if text is None else text
    stream = BlockStream(folder, device=device)
    windows = windows_of(folder, text, options, longest_window(stream))
    walk = Walk(stream, windows, full=False)
    found: dict[str, Tensor] = {}
    state = _state(state_file, folder, text, options)
    if state and (saved := state.load()):
        walk.layer, walk.hidden = saved.layer, saved.tensors.pop("hidden").to(device)
        found |= saved.tensors

    def note(layer: int, block: DecoderLayer) -> None:
        moments = walk.watch(block, advance=True)
        for watched, group in INPUT_GROUPS.items():
            mean = moments[watched].mean_square.cpu()
            found.update({f"{layer}.{name}": mean.clone() for name in group})

    for done in walk.steps(note):
        if state:
            state.save(done, {**found, "hidden": walk.hidden})
        if progress:
            progress(done, stream.config.num_hidden_layers)
    if state:
        state.remove()
    return Importance(
        values=_by_gguf_name(folder, found, walk.final_moments().mean_square),
        num_windows=windows.shape[0],
        window_len=windows.shape[1],
    )


def _state(
    path: Path | None, folder: Path, text: str, options: CalibrationOptions
) -> StateFile | None:
    if path is None:
        return None
    return StateFile(path, fingerprint(folder), hashlib.sha256(text.encode()).digest(), options)


def _by_gguf_name(
    folder: Path, found: dict[str, Tensor], head: Tensor
) -> dict[str, NDArray[np.float32]]:
    config = read_config(folder)
    architecture = architecture_of(config)
    values: dict[str, NDArray[np.float32]] = {}
    for key, mean in found.items():
        name = gguf_name(architecture, f"model.layers.{key}.weight")
        assert name is not None, "every watched matrix has a name in GGUF"
        values[name] = mean.numpy()
    tied = config.get("tie_word_embeddings")
    values["token_embd.weight" if tied else "output.weight"] = head.cpu().numpy()
    return values
