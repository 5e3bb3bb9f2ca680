"""One quantization in this process, and what it took: run by benchmarks/quantize_scale.py."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.pair_text import pair_text
from benchmarks.quantize_scale import windows_for


def main() -> None:
    """Read job, source, folder, tokens and threads from the command line."""
    job, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    tokens, threads = int(sys.argv[4]), int(sys.argv[5])
    text = pair_text(1)
    started = time.perf_counter()
    if job == "gptq":
        from quantize.gptq_folder import quantize_gptq

        quantize_gptq(source, out / "gptq", text=text, calibration=windows_for(tokens))
    elif job == "gptqmodel":
        from quantize.gptqmodel_solver import quantize_with_gptqmodel

        # It reports its progress on stdout, where this process answers.
        with contextlib.redirect_stdout(sys.stderr):
            quantize_with_gptqmodel(
                source, out / "gptqmodel", text=text, calibration=windows_for(tokens)
            )
    elif job == "importance":
        from quantize.measure_importance import measure_importance

        measure_importance(source, text, options=windows_for(tokens))
    else:
        from quantize.gguf import convert

        convert(source, out / "model.gguf", kind=job, num_threads=threads)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": peak * unit}))


if __name__ == "__main__":
    main()
