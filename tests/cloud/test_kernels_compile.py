"""Every variant of the Triton kernels compiles for real GPUs, on a machine without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The kernels' interpreter, which the other tests use, cannot be left in one process.
_COMPILE = Path(__file__).with_name("compile_kernels.py")
_ROOT = Path(__file__).parents[2]


def compiled(place: Path, *which: str) -> dict[str, dict[str, int]]:
    """Return what became of each variant: bytes of PTX and of machine code, shared memory."""
    pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        backends,
    )

    if "nvidia" not in backends:
        pytest.skip("this triton has no compiler for CUDA")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(_COMPILE), *which],
        env={**environment, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, dict[str, int]] = json.loads(done.stdout)
    return told


def check(told: dict[str, dict[str, int]], kinds: tuple[str, ...]) -> None:
    for capability in (80, 87, 90):
        for kind in kinds:
            assert any(name.startswith(f"sm_{capability} partial {kind}") for name in told), kind
    for name, one in told.items():
        assert one["ptx"] > 1000 and one["cubin"] > 1000, name
        # The least of the three, sm_80, gives a program 163 KiB.
        assert one["shared"] <= 163 * 1024, name
        if "partial bf16" in name or "partial fp16" in name:
            assert one["uses_tensor_cores"], name


def test_decode_compiles_to_machine_code_for_the_usual_caches(tmp_path: Path) -> None:
    check(compiled(tmp_path), ("bf16/bf16", "bf16/u8"))


@pytest.mark.slow
def test_decode_compiles_for_every_size_of_head_and_kind_of_cache(tmp_path: Path) -> None:
    kinds = ("bf16/bf16 dim 80", "bf16/i8", "fp16/u8 dim 192", "bf16/u8 dim 256", "fp32/i8")
    check(compiled(tmp_path, "rest"), kinds)
