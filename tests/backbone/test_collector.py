"""What a server has loaded is looked at by no later collection, and what comes after still is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import gc, weakref
from backbone.collector import leave_out_what_is_loaded
class Knot:
    def __del__(self):
        print("gone")
loaded = [Knot() for _ in range(1000)]
leave_out_what_is_loaded()
assert gc.get_freeze_count() > 1000
assert not any(isinstance(each, Knot) for each in gc.get_objects())
knot = Knot()
knot.self, seen = knot, weakref.ref(knot)
del knot
gc.collect()
assert seen() is None
loaded[0].self = loaded[0]
del loaded[1:]
"""


def test_only_what_came_after_the_loading_is_looked_at() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("gone") == 1001, "what was loaded ends with the process"
