"""Our GPTQ folders in the packages that people load them with; each where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.loading import as_decoded, read_network
from quantize.logits_model import TorchModel
from quantize.model_files import FolderFiles
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
# A Python that can import auto-gptq; scripts/auto_gptq_environment makes one.
AUTO_GPTQ_PYTHON = os.environ.get("AUTO_GPTQ_PYTHON", "")
needs_auto_gptq = pytest.mark.skipif(
    not AUTO_GPTQ_PYTHON,
    reason="AUTO_GPTQ_PYTHON is not set; scripts/auto_gptq_environment makes such a Python",
)
LOAD_WITH_AUTO_GPTQ = """
import json, sys
import numpy, torch
from auto_gptq import AutoGPTQForCausalLM
folder, tokens = sys.argv[1], json.loads(sys.argv[2])
model = AutoGPTQForCausalLM.from_quantized(folder, device="cpu", use_safetensors=True)
with torch.no_grad():
    logits = model(torch.tensor([tokens])).logits[0].float()
numpy.save(folder + "/theirs.npy", logits.numpy())
"""


def quantized(make_checkpoint: Make, options: GptqOptions, **changes: Any) -> Path:
    source = make_checkpoint("llama", hidden_size=128, intermediate_size=256, **changes)
    return quantize_gptq(
        source,
        source.with_name("gptq"),
        options=options,
        calibration=CALIBRATION,
        store_tied_head=True,
    ).path


def assert_equal_to_ours(folder: Path, found: NDArray[np.float32]) -> None:
    expected = TorchModel(read_network(FolderFiles(folder), made=as_decoded)).logits(TOKENS)
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
@pytest.mark.parametrize("tied", (False, True), ids=("untied", "tied"))
@pytest.mark.parametrize("options", (*VARIANTS[:2], VARIANTS[3]), ids=repr)
def test_auto_gptq_reads_the_same_model(
    make_checkpoint: Make, options: GptqOptions, tied: bool
) -> None:
    folder = quantized(make_checkpoint, options, tie_word_embeddings=tied)
    words = [AUTO_GPTQ_PYTHON, "-c", LOAD_WITH_AUTO_GPTQ, str(folder), json.dumps(TOKENS)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_to_ours(folder, np.load(folder / "theirs.npy"))
