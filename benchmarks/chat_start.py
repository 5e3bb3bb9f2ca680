"""How long a person waits for the chat: from the command to its first prompt, embedded model.

The model is loaded while the prompt is shown. The bare interpreter runs beside it. Writes
benchmarks/chat_start.json.
"""

from __future__ import annotations

import json
import os
import platform
import pty
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = 7


def to_first_prompt(environment: dict[str, str]) -> float:
    """Return the seconds until the prompt is drawn in a pseudo-terminal."""
    began = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvpe(
            sys.executable, [sys.executable, "-m", "nearfar", "chat", "--offline"], environment
        )
    shown = b""
    while b"> " not in shown:
        shown += os.read(terminal, 4096)
    seconds = time.monotonic() - began
    os.kill(child, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(child, 0)
    return seconds


def bare_interpreter() -> float:
    """Return the seconds that Python alone takes to start and stop."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "NEARFAR_HOME": home, "TERM": "xterm-256color"}
        to_first_prompt(environment)  # the first one writes compiled modules
        chats = [to_first_prompt(environment) for _ in range(RUNS)]
        bares = [bare_interpreter() for _ in range(RUNS)]
    chat, bare = statistics.median(chats), statistics.median(bares)
    report = {
        "chat_over_bare_python": round(chat / bare, 1),
        "chat_first_prompt_s": round(chat, 3),
        "chat_first_prompt_worst_s": round(max(chats), 3),
        "bare_python_s": round(bare, 3),
        "runs": RUNS,
        "seed": None,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "nearfar": version("nearfar"),
        "llama_cpp_python": version("llama-cpp-python"),
    }
    text = json.dumps(report, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
