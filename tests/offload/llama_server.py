"""llama-cpp-python's own server, kept off the AMX kernels that end in an illegal instruction.

See edge/llama/native_handles.py; the server has no flag for it.
"""

from __future__ import annotations

from typing import Any

import llama_cpp

_usual = llama_cpp.llama_model_default_params


def _plain() -> Any:
    params = _usual()
    params.use_extra_bufts = False
    return params


if __name__ == "__main__":
    import llama_cpp.llama
    from llama_cpp.server.__main__ import main

    llama_cpp.llama.llama_cpp.llama_model_default_params = _plain
    main()
