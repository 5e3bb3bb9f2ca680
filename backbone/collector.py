"""Garbage collector of Python in a server: what was loaded is left out of its sight.

A full collection looks at every object there is. Behind torch and a model those are hundreds of
thousands, which all live as long as the process, and nobody is answered meanwhile.
"""

from __future__ import annotations

import atexit
import gc


def leave_out_what_is_loaded() -> None:
    """Collect once, and let no later collection look at what is there now; call it when loaded."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else what ends with the process is taken for leaked
