"""What a process wrote for a while is gone with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backbone.files import scratch_file, scratch_folder

ROOT = Path(__file__).parents[2]
DEAD = 2**22 + 7  # above what Linux gives out
HOLDING = """
import signal, sys
for each in (signal.SIGTERM, signal.SIGHUP):  # whoever runs the tests may ignore them
    signal.signal(each, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
import nearfar_command
from pathlib import Path
from backbone.files import scratch_file, scratch_folder

@nearfar_command.whole_app().command("hold")
def hold() -> None:
    with scratch_file(Path(sys.argv[2]), "part") as part, scratch_folder("plan") as folder:
        part.write_bytes(b"x")
        (folder / "m.gguf").write_bytes(b"x")
        print(folder, flush=True)
        signal.pause()

sys.argv = ["nearfar", "hold", sys.argv[1]]
"""


def old(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "m.gguf"
    code = HOLDING.replace("sys.argv[2]", repr(str(target))).replace(
        'sys.argv = ["nearfar", "hold", sys.argv[1]]', 'sys.argv = ["nearfar", "hold"]'
    )
    command = [sys.executable, "-c", f"{code}\nnearfar_command.main()"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        folder = Path(child.stdout.readline().strip())
        assert folder.is_dir() and any(tmp_path.iterdir())
        child.send_signal(number)
        told = child.stderr.read()
        assert child.wait() == 128 + number
    assert told == "" and not folder.exists() and not any(tmp_path.iterdir())


def test_a_later_run_takes_what_a_dead_process_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    gone = [
        tmp_path / f".m.gguf.{DEAD}.part",
        tmp_path / f".m.gguf.{DEAD}-0a1b2c3d.part",
        tmp_path / f"..m.gguf.{DEAD}-0a1b2c3d.part.{DEAD}-4e5f6a7b.bf16",
        tmp_path / f"nearfar-plan-{DEAD}-abc",
    ]
    kept = [
        tmp_path / f".m.gguf.{os.getpid()}.f16",  # of a live process
        tmp_path / f".other.gguf.{DEAD}.part",
        tmp_path / f"nearfar-report-{DEAD}-abc",
        tmp_path / ".m.gguf.partial",
    ]
    for path in (*gone, *kept):
        path.mkdir() if path.name.startswith("nearfar-") else path.write_bytes(b"x")
        old(path)
    fresh = tmp_path / f".m.gguf.{DEAD}.fresh"  # perhaps of another machine
    fresh.write_bytes(b"x")
    with scratch_file(tmp_path / "m.gguf", "part"), scratch_folder("plan"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*kept, fresh])
