"""The command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def nearfar(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nearfar", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def ask(cloud: tuple[dict[str, str], Path], *arguments: str, **more: str) -> dict:  # type: ignore[type-arg]
    told, home = cloud
    environment = {"NEARFAR_HOME": str(home), "NEARFAR_CLOUD_URL": told["endpoint"], **more}
    done = nearfar("ask", *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
