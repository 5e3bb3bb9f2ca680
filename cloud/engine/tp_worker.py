"""One of the other processes of a shared model: `python -m cloud.engine.tp_worker RANK`.

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
from cloud.engine.loading import load_model
from cloud.engine.options import EngineOptions
from cloud.engine.tensor_parallel import Meeting


def main() -> None:
    """Load a share of the model and compute its part of every step."""
    # Ctrl-C in a terminal reaches every process; the engine ends this one when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = json.loads(sys.stdin.readline())
    options = EngineOptions(**told["options"])
    meeting = Meeting(
        rank=int(sys.argv[1]), size=options.tensor_parallel_size, address=told["address"]
    )
    try:
        model = load_model(Path(told["folder"]), options, meeting, loaded=_say_loaded)
    except NearfarError as error:
        print(error, flush=True)
        sys.exit(1)
    model.runner.follow()


def _say_loaded() -> None:
    print("loaded", flush=True)
    threading.Thread(target=_end_with_the_engine, daemon=True).start()


def _end_with_the_engine() -> None:
    sys.stdin.read()
    # A collective that waits for a dead process cannot be interrupted.
    os._exit(0)


if __name__ == "__main__":
    main()
