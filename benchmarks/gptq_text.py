"""What GPTQ makes of the calibration text: each matrix's output error on tokens of another text.

    python -m benchmarks.gptq_text MODEL --text OTHER --json OUT

MODEL is a Hugging Face folder; OTHER is a text that nothing is calibrated on. One half of it gives
the error that is reported, the other stands for a calibration text like the one that is read later.
A matrix's error is E|Wx - W'x|^2 / E|Wx|^2; the geometric mean over the matrices of some layers is
told, on the calibration text itself and on the other. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backbone.network import DecoderLayer
from quantize.block_stream import MODEL_PREFIX, BlockStream
from quantize.calibration import (
    INPUT_GROUPS,
    LINEARS,
    CalibrationOptions,
    Walk,
    longest_window,
    windows_of,
)
from quantize.calibration_text import default_text
from quantize.gptq import GptqOptions, output_error, quantize_matrix

ByMatrix = Mapping[str, Tensor]
PLAIN = GptqOptions(group_size=64, damping=0.01)
# name -> (calibration text, options; None rounds to nearest)
WAYS: dict[str, tuple[str, GptqOptions, bool]] = {
    "round to nearest": ("embedded, 8 windows", PLAIN, False),
    "8 windows": ("embedded, 8 windows", PLAIN, True),
    "24 windows": ("embedded, 24 windows", PLAIN, True),
    "8 windows of a text like the one read": ("alike, 8 windows", PLAIN, True),
    "24 windows, damping 0.05": ("embedded, 24 windows", replace(PLAIN, damping=0.05), True),
    "24 windows, damping 0.2": ("embedded, 24 windows", replace(PLAIN, damping=0.2), True),
    "24 windows, damping 1": ("embedded, 24 windows", replace(PLAIN, damping=1.0), True),
    "alike, damping 0.2": ("alike, 8 windows", replace(PLAIN, damping=0.2), True),
    "24 windows, asymmetric": ("embedded, 24 windows", replace(PLAIN, sym=False), True),
    "24 windows, by activation": ("embedded, 24 windows", replace(PLAIN, desc_act=True), True),
    "24 windows, groups of 32": ("embedded, 24 windows", replace(PLAIN, group_size=32), True),
    "24 windows, no range search": (
        "embedded, 24 windows",
        replace(PLAIN, search_range=False),
        True,
    ),
}


def main() -> None:
    """Measure every way on the same matrices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 20])
    parser.add_argument("--note", default="")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    other = options.text.read_text(encoding="utf-8")
    half = len(other) // 2
    texts = {
        "embedded, 8 windows": (default_text(), 8, 0),
        "embedded, 24 windows": (default_text(), 24, 5),
        "alike, 8 windows": (other[:half], 8, 9),
        "scored": (other[half:], 12, 3),
    }
    moments = {
        name: _moments(
            options.model, text, CalibrationOptions(num_windows=count, seed=seed), options.layers
        )
        for name, (text, count, seed) in texts.items()
    }
    weights = _weights(options.model, options.layers)
    ways = {
        name: _errors(weights, moments[t], moments["scored"], _maker(o, g))
        for name, (t, o, g) in WAYS.items()
    }
    document = {
        "output_errors": ways,
        "model": options.model.name,
        "layers": options.layers,
        "note": options.note,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, error in ways.items():
        print(f"{name:40} {error['scored']:.5f} (calibration text {error['calibration']:.5f})")


def _moments(folder: Path, text: str, drawn: CalibrationOptions, layers: list[int]) -> ByMatrix:
    """Return the second moments of the unrounded model's inputs by layer and watched matrix."""
    stream = BlockStream(folder)
    walk = Walk(stream, windows_of(folder, text, drawn, longest_window(stream)), full=True)
    found: dict[str, Tensor] = {}

    def look(layer: int, block: DecoderLayer) -> None:
        if layer in layers:
            seen = walk.watch(block, advance=True)
            for watched, group in INPUT_GROUPS.items():
                found.update({f"{layer}.{name}": seen[watched].mean for name in group})

    with torch.no_grad():
        for done in walk.steps(look):
            if done > max(layers):
                break
    return found


def _weights(folder: Path, layers: list[int]) -> dict[str, Tensor]:
    stream = BlockStream(folder)
    names = {f"{n}.{m}": f"{MODEL_PREFIX}layers.{n}.{m}.weight" for n in layers for m in LINEARS}
    return {key: stream.read(name, stream.tensors[name].shape) for key, name in names.items()}


def _maker(options: GptqOptions, spreads: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def make(weight: Tensor, moment: Tensor) -> Tensor:
        # Inputs that do not depend on each other take over no errors.
        fed = moment if spreads else moment.diagonal().clamp_min(1e-12).diag()
        return quantize_matrix(weight, fed, options).dequantized()

    return make


def _errors(
    weights: ByMatrix, fed: ByMatrix, scored: ByMatrix, make: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float]:
    logs = torch.tensor(
        [
            [math.log(output_error(w, made, m[name])) for m in (scored, fed)]
            for name, w in weights.items()
            for made in [make(w, fed[name])]
        ]
    )
    on_other, on_own = logs.mean(0).exp().tolist()
    return {"scored": on_other, "calibration": on_own}


if __name__ == "__main__":
    main()
