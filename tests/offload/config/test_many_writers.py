"""Many programs change one file at once, and no change of any is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.models.local_models import read_aliases
from offload.config.settings_reading import read_file
from offload.config.settings_sources import drop, put

KEYS = {
    "edge.max_model_len": 4096, "edge.num_threads": 3, "edge.num_sinks": 5, "edge.window": 99,
    "cloud.model": "m", "policy.min_logprob": -1.5, "serve.port": 8123, "serve.max_running": 17,
    "serve.max_queued": 9, "quota.tokens_per_day": 5,
}  # fmt: skip
NUM_PROCESSES = 10
_WAIT = "import sys, pathlib; pathlib.Path(sys.argv[1]).touch(); sys.stdin.read();"


def at_once(folder: Path, code: str, arguments: Sequence[Sequence[str]]) -> None:
    """Run the code in a process for each row of arguments; all begin in the same moment."""
    started = [folder / f"ready-{n}" for n in range(len(arguments))]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WAIT + code, str(mark), *map(str, row)],
            stdin=subprocess.PIPE,
        )
        for mark, row in zip(started, arguments, strict=True)
    ]
    for mark, process in zip(started, processes, strict=True):
        while not mark.exists():
            assert process.poll() is None, "it ended before it began"
    for process in processes:
        assert process.stdin is not None, "it was made with a pipe"
        process.stdin.close()
    assert [process.wait(120) for process in processes] == [0] * len(processes)


def test_ten_processes_set_a_key_each(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    code = (
        "from offload.config.settings_sources import put;"
        "[put(pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]) for _ in range(5)]"
    )
    wanted = list(KEYS.items())
    at_once(tmp_path, code, [(path, name, value) for name, value in wanted])
    found = read_file(path)
    assert {
        f"{section}.{name}": value for section in found for name, value in found[section].items()
    } == KEYS


def test_ten_processes_name_a_model_each(tmp_path: Path) -> None:
    code = (
        "from edge.models.local_models import set_alias;"
        "[set_alias(f'{sys.argv[3]}{n}', 'm', pathlib.Path(sys.argv[2])) for n in range(5)]"
    )
    folder = tmp_path / "models"
    at_once(tmp_path, code, [(folder, f"alias{n}-") for n in range(NUM_PROCESSES)])
    assert len(read_aliases(folder)) == 5 * NUM_PROCESSES


def test_a_key_that_another_took_out_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    put(path, "edge.window", "70")
    assert drop(path, "edge.window") and not drop(path, "edge.window")
