"""Peak memory must not grow with depth: each run in a process of its own, shallow and deep."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="this system does not tell a process its peak memory")

Make = Callable[..., Path]
SHAPE = {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 64, "num_attention_heads": 8}
BLOCK_BYTES = 4 * (512 * 512 * 2 + 512 * 128 * 2 + 3 * 512 * 1024)
CALLS = {
    "gptq": (
        "from quantize.gptq_folder import quantize_gptq as run\n"
        "from quantize.calibration import CalibrationOptions\n"
        "from quantize.gptq import GptqOptions\n"
        "fast = GptqOptions(search_range=False, true_sequential=False)\n"
        "few = CalibrationOptions(num_windows=4, window_len=64)\n"
        "run(source, target, options=fast, calibration=few)\n"
    ),
    "importance": (
        "from quantize.measure_importance import measure_importance as run\n"
        "from quantize.calibration import CalibrationOptions\n"
        "run(source, options=CalibrationOptions(num_windows=4, window_len=64))\n"
    ),
    "plan": (
        "from quantize.calibration import CalibrationOptions\n"
        "from quantize.sensitivity import SensitivityOptions, measure_sensitivity as run\n"
        "few = CalibrationOptions(num_windows=2, window_len=32)\n"
        "run(source, options=SensitivityOptions(types=('q8_0',), text=few))\n"
    ),
    "gguf": "from quantize.gguf import convert as run\nrun(source, target, kind='bf16')\n",
}


def peak_bytes(call: str, source: Path, target: Path) -> int:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "source, target = Path(sys.argv[1]), Path(sys.argv[2])\n"
        f"{CALLS[call]}"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    words = [sys.executable, "-c", code, str(source), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_depth_costs_no_memory(call: str, make_checkpoint: Make, tmp_path: Path) -> None:
    shallow = make_checkpoint("llama", **SHAPE, num_hidden_layers=2).rename(tmp_path / "shallow")
    deep = make_checkpoint("llama", **SHAPE, num_hidden_layers=6)
    few = peak_bytes(call, shallow, tmp_path / "a")
    many = peak_bytes(call, deep, tmp_path / "b")
    assert many - few < BLOCK_BYTES, f"4 more blocks took {(many - few) / BLOCK_BYTES:.1f}"
