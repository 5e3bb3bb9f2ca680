"""Our GPTQ folders in the packages that people load them with; each where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.gptq_reader import load_gptq_network
from quantize.judged_model import TorchModel
from tests.quantize.test_gguf import TOKENS

Make = Callable[..., Path]
CALIBRATION = CalibrationOptions(num_windows=8, window_len=32)
VARIANTS = [
    GptqOptions(bits=4, group_size=64),
    GptqOptions(bits=4, group_size=64, desc_act=True),
    GptqOptions(bits=4, group_size=32, sym=False),
    GptqOptions(bits=8, group_size=64),
]
needs_gptqmodel = pytest.mark.skipif(
    find_spec("gptqmodel") is None or find_spec("optimum") is None,
    reason="gptqmodel and optimum are not installed",
)
needs_auto_gptq = pytest.mark.skipif(
    find_spec("auto_gptq") is None, reason="auto_gptq is not installed (it needs transformers < 5)"
)


def quantized(make_checkpoint: Make, options: GptqOptions) -> Path:
    source = make_checkpoint("llama", hidden_size=128, intermediate_size=256)
    return quantize_gptq(
        source, source.with_name("gptq"), options=options, calibration=CALIBRATION
    ).path


def assert_equal_to_ours(folder: Path, found: NDArray[np.float32]) -> None:
    expected = TorchModel(load_gptq_network(folder)).logits(TOKENS)
    difference = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    # Their kernels compute in float16 or bfloat16; a zero point off by one gives more than 0.5.
    assert difference < 0.05, difference


@needs_gptqmodel
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", VARIANTS, ids=repr)
def test_transformers_reads_the_same_model(make_checkpoint: Make, options: GptqOptions) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = quantized(make_checkpoint, options)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.float16)
    with torch.no_grad():
        found = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    assert_equal_to_ours(folder, found)


@needs_gptqmodel
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", VARIANTS, ids=repr)
def test_gptqmodel_reads_the_same_model(
    make_checkpoint: Make, options: GptqOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")  # its default fails on two cores
    if not options.sym:
        # It takes asymmetric version 1 only from itself.
        options = replace(options, checkpoint_format="gptq_v2")
    import torch

    package = pytest.importorskip("gptqmodel")
    folder = quantized(make_checkpoint, options)
    model = package.GPTQModel.load(str(folder), device="cpu", backend=package.BACKEND.TORCH)
    with torch.no_grad():
        found = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    assert_equal_to_ours(folder, found)


@needs_auto_gptq
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", VARIANTS[:2], ids=repr)
def test_auto_gptq_reads_the_same_model(make_checkpoint: Make, options: GptqOptions) -> None:
    import torch

    loader = pytest.importorskip("auto_gptq").AutoGPTQForCausalLM
    folder = quantized(make_checkpoint, options)
    model = loader.from_quantized(str(folder), device="cpu", use_safetensors=True)
    with torch.no_grad():
        found = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    assert_equal_to_ours(folder, found)
