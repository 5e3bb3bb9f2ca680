"""llama.cpp build: what it was built for, what this CPU has, and what a better build would give."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

from backbone.errors import NearfarError

# The kernel's name of a feature, and llama.cpp's; those that its kernels gain most from.
FEATURES = {
    "avx": "AVX",
    "avx2": "AVX2",
    "f16c": "F16C",
    "fma": "FMA",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}
# And what else a build may use without asking whether the CPU has it.
_NEEDED = {flag: name for flag, name in FEATURES.items() if flag != "asimd"} | {  # 32 bits: neon
    "pni": "SSE3",
    "ssse3": "SSSE3",
    "bmi2": "BMI2",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
}
_REBUILD = (
    "`CMAKE_ARGS={} pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python "
    "llama-cpp-python` builds one"
)


def cpu_features(root: Path = Path("/")) -> set[str]:
    """Return which of FEATURES this CPU has, empty where the kernel does not tell."""
    return _flags(root) & set(FEATURES)


def _flags(root: Path) -> set[str]:
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return set()
    rows = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    # Cores may differ; what all of them have is what can be used.
    return set.intersection(*(set(row.split()) for row in rows)) if rows else set()


def require_cpu(system_info: str, root: Path = Path("/")) -> None:
    """Raise NearfarError where a build of llama.cpp uses what this CPU has not.

    It would die of an illegal instruction: a wheel from a cache, or an image, of another machine.
    Where the kernel does not tell what the CPU has, nothing is raised.
    """
    flags, built = _flags(root), built_with(system_info)
    lacking = sorted(name for flag, name in _NEEDED.items() if name in built and flag not in flags)
    if flags and lacking:
        raise NearfarError(
            f"this llama.cpp was built for a CPU with {', '.join(lacking)}, which this one has "
            f"not; {_REBUILD.format('-DGGML_NATIVE=off')}"
        )


def built_with(system_info: str) -> set[str]:
    """Return llama.cpp's names of what a build uses, from its own `NAME = 1 | NAME = 0` line."""
    return set(re.findall(r"(\w+) = 1", system_info))


def has_nvidia(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA GPU and its driver are here; a Jetson's has another device file."""
    return any((root / "dev" / name).exists() for name in ("nvidiactl", "nvgpu", "nvhost-gpu"))


def build_advice(cpu: Set[str], built: Set[str], *, nvidia: bool, offload: bool) -> list[str]:
    """Return what a better build of llama.cpp would bring, each with the command that makes it."""
    advice = []
    if nvidia and not offload:
        rebuild = _REBUILD.format("-DGGML_CUDA=on")
        advice.append(f"there is an NVIDIA GPU and this llama.cpp cannot use it; {rebuild}")
    unused = sorted(FEATURES[name] for name in cpu if built and FEATURES[name] not in built)
    if unused:
        rebuild = _REBUILD.format("-DGGML_NATIVE=on")
        advice.append(f"this CPU has {', '.join(unused)} and this llama.cpp does not; {rebuild}")
    return advice
