"""Every test has a home of its own, and no setting of this machine reaches it."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.in_process import Run

# A slow machine is no fault, and no run may fail on examples that the last one did not have;
# to look for new ones: pytest --hypothesis-profile default.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# Triton reads this when it is first imported, which almost any test of torch may cause.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in list(os.environ):
        if name.startswith("NEARFAR_"):
            monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NEARFAR_HOME", str(folder))
    # Two threads that wait for each other crawl where another test keeps a core busy.
    monkeypatch.setenv("NEARFAR_EDGE_NUM_THREADS", "1")
    return folder


@pytest.fixture(autouse=True)
def no_end_of_this_process() -> Iterator[None]:
    """What a signal told in a test must not end the tests: see backbone/stop_signals.py."""
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; return exit status, stdout, stderr."""
    import nearfar

    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nearfar", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            nearfar.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call
