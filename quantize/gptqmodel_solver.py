"""GPTQModel solver: GPTQ by the GPTQModel package, where it is installed."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from backbone.errors import MissingExtra, NearfarError
from quantize.architectures import architecture_of
from quantize.block_stream import BlockStream
from quantize.calibration import CalibrationOptions, longest_window, windows_of
from quantize.calibration_text import default_text
from quantize.gptq import GptqOptions
from quantize.weights import read_config


def quantize_with_gptqmodel(
    source: Path,
    target: Path,
    *,
    options: GptqOptions | None = None,
    text: str | None = None,
    calibration: CalibrationOptions | None = None,
) -> Path:
    """Let GPTQModel quantize on the same windows of text; return the folder it wrote.

    Raises MissingExtra without the package, NearfarError where the target exists.
    """
    source, target = Path(source), Path(target)
    options, calibration = options or GptqOptions(), calibration or CalibrationOptions()
    if target.exists():
        raise NearfarError(f"{target} exists already; name another folder or delete it")
    architecture_of(read_config(source))
    for needed in ("gptqmodel", "optimum"):
        if find_spec(needed) is None:
            raise MissingExtra(needed, "gpu")
    # Its own default of (cores + 1) // 2 workers fails on two cores.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    package = import_module("gptqmodel")

    stream = BlockStream(source)
    # GPTQModel itself refuses what does not divide.
    options = options.fitting(
        {t.shape[1] for name, t in stream.tensors.items() if name.endswith("_proj.weight")}
    )
    windows = windows_of(
        source, default_text() if text is None else text, calibration, longest_window(stream)
    )
    settings = package.QuantizeConfig(
        bits=options.bits,
        group_size=options.group_size,
        sym=options.sym,
        desc_act=options.desc_act,
        damp_percent=options.damping,
        device="cpu",
    )
    model = package.GPTQModel.load(str(source), settings)
    rows = [{"input_ids": w.tolist(), "attention_mask": [1] * len(w)} for w in windows]
    model.quantize(rows, batch_size=1)
    model.save(str(target))
    return target
