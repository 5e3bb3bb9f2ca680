"""Compile the Triton kernels for GPUs that are not here, and print what came of it as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
from triton.backends.compiler import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    GPUTarget,
)
from triton.compiler import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    ASTSource,
    compile,
)

from engine.torch.attention.kernels import partial_kernel, reduce_kernel

_CODES = {"i8": 1, "u8": 2}
_FULL = {"WINDOW": 0, "SINKS": 0, "CAP": 0.0}
# (queries, cache, size of a head, heads that share keys, block, window and sinks and cap)
_Variant = tuple[str, str, int, int, int, dict[str, Any]]
_FIRST: list[_Variant] = [
    ("bf16", "bf16", 128, 4, 16, _FULL),
    ("bf16", "u8", 96, 4, 16, {"WINDOW": 512, "SINKS": 4, "CAP": 50.0}),
]
_REST: list[_Variant] = [
    ("bf16", "bf16", 80, 1, 16, _FULL),
    ("bf16", "bf16", 96, 8, 256, {"WINDOW": 4096, "SINKS": 4, "CAP": 50.0}),
    ("bf16", "i8", 128, 4, 16, _FULL),
    ("fp16", "u8", 192, 32, 16, _FULL),
    ("bf16", "u8", 256, 2, 32, {"WINDOW": 4096, "SINKS": 4, "CAP": 30.0}),
    ("fp32", "fp32", 64, 2, 16, _FULL),
    ("fp32", "fp32", 256, 2, 16, _FULL),
    ("fp32", "i8", 64, 2, 16, _FULL),
]


def main() -> None:
    """Compile for the A100, the Orin and the H200; `rest` is what takes long."""
    told = {}
    for capability in (80, 87, 90):
        for variant in _REST if sys.argv[1:] == ["rest"] else _FIRST:
            q, kv, dim, group, *_ = variant
            name = f"sm_{capability} partial {q}/{kv} dim {dim} group {group}"
            told[name] = _compiled(partial_kernel, _partial(*variant), capability)
        told[f"sm_{capability} reduce"] = _compiled(reduce_kernel, _reduce(), capability)
    print(json.dumps(told))


def _partial(
    q: str, kv: str, dim: int, group: int, block: int, rest: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    floats = dict.fromkeys(("k_scale_ptr", "v_scale_ptr", "acc_ptr", "top_ptr", "sum_ptr"), "*fp32")
    types = {"q_ptr": f"*{q}", "k_ptr": f"*{kv}", "v_ptr": f"*{kv}", **floats}
    types |= {"table_ptr": "*i32", "length_ptr": "*i32"}
    types |= {"scale": "fp32", "q_stride": "i32", "table_width": "i32"}
    constants = {
        "KV_HEADS": 8,
        "GROUP": group,
        "ROWS": max(16, triton.next_power_of_2(group)),
        "DIM": dim,
        "PADDED_DIM": triton.next_power_of_2(dim),
        "BLOCK": block,
        "TILE": 32,
        "SPLITS": 8,
        "EXACT": q == "fp32",
        "CODE": _CODES.get(kv, 0),
    }
    return types, constants | rest


def _reduce() -> tuple[dict[str, str], dict[str, Any]]:
    types = dict.fromkeys(("acc_ptr", "top_ptr", "sum_ptr"), "*fp32") | {"out_ptr": "*bf16"}
    return types, {"DIM": 128, "PADDED_DIM": 128, "SPLITS": 32}


def _compiled(
    kernel: Any, signature: tuple[dict[str, str], dict[str, Any]], capability: int
) -> dict[str, int]:
    types, constants = signature
    names = kernel.arg_names
    # What torch allocates is aligned, and loads are as wide as that allows.
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if types.get(name, "").startswith("*") or name == "q_stride"
    }
    whole = {name: types.get(name, "constexpr") for name in names}
    source = ASTSource(fn=kernel, signature=whole, constexprs=constants, attrs=aligned)
    made = compile(source, target=GPUTarget("cuda", capability, 32))
    return {
        "ptx": len(made.asm["ptx"]),
        "cubin": len(made.asm["cubin"]),
        "shared": made.metadata.shared,
        "uses_tensor_cores": int("mma.sync" in made.asm["ptx"] or "wgmma" in made.asm["ptx"]),
    }


if __name__ == "__main__":
    main()
