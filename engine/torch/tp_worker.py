"""The main program of a tensor-parallel worker: `python -m engine.torch.tp_worker RANK`.

The first line of its input says what to load, as JSON. It ends when the engine says so, and when
its input is closed: the engine is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

from backbone.errors import NearfarError
from engine.torch.loading import load_model
from engine.torch.options import EngineOptions
from engine.torch.tensor_parallel import Rendezvous


def main() -> None:
    """Load a share of the model and compute its part of every step."""
    # Ctrl-C in a terminal reaches every process; the engine ends this one when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.stdin.readline())
    options = EngineOptions(**job["options"])
    rendezvous = Rendezvous(
        rank=int(sys.argv[1]), size=options.tensor_parallel_size, address=job["address"]
    )
    try:
        model = load_model(Path(job["folder"]), options, rendezvous, on_loaded=_report_loaded)
    except NearfarError as error:
        print(error, flush=True)
        sys.exit(1)
    model.runner.run_worker()


def _report_loaded() -> None:
    print("loaded", flush=True)
    threading.Thread(target=_exit_with_engine, daemon=True).start()


def _exit_with_engine() -> None:
    sys.stdin.read()
    # A collective that waits for a dead process cannot be interrupted.
    os._exit(0)


if __name__ == "__main__":
    main()
