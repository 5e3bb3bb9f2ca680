"""The launcher of tensor-parallel workers: started with the engine, and ended with it.

Each runs `python -m engine.torch.tp_worker`. It reads its share of the weights, says so in one line
on its standard output, and then meets the others at a file of torch.distributed's own. Its
standard input stays open as long as the engine lives.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from backbone.errors import NearfarError
from backbone.tensor_shard import TensorShard
from engine.torch.options import EngineOptions
from engine.torch.tensor_parallel import Rendezvous
from quantize.model_files import model_files

_END_S = 10.0  # for a process to leave once it was told


class TpLauncher:
    """Launcher of the worker processes; there may be none."""

    def __init__(
        self, processes: list[subprocess.Popen[str]], meeting_folder: Path | None = None
    ) -> None:
        self.processes = processes
        self._folder = meeting_folder

    def wait_until_loaded(self) -> None:
        """Wait until all have read their weights. Raises NearfarError for one that cannot."""
        for rank, process in enumerate(self.processes, start=1):
            assert process.stdout is not None, "its output is a pipe"
            line = process.stdout.readline().strip()
            if line != "loaded":
                reason = line or "it ended without an error"
                raise NearfarError(f"process {rank} of the shared model failed: {reason}")

    def lost(self) -> str | None:
        """Return which process has ended by itself and how, or None while all run."""
        for rank, process in enumerate(self.processes, start=1):
            if (status := process.poll()) is not None:
                how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
                return f"process {rank} of the shared model {how}; start the engine again"
        return None

    @contextmanager
    def ended_on_failure(self) -> Iterator[None]:
        """End them all if the block fails. Raises NearfarError where one of them is why."""
        try:
            yield
        except BaseException as error:
            lost = self.lost()
            self.end()
            if lost is None or isinstance(error, NearfarError):
                raise
            raise NearfarError(lost) from error

    def end(self) -> None:
        """End all, by force where asking is not enough."""
        for process in self.processes:
            assert process.stdin is not None, "its input is a pipe"
            process.stdin.close()
        for process in self.processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None, "its output is a pipe"
            process.stdout.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def launch_workers(folder: Path, options: EngineOptions) -> tuple[TpLauncher, Rendezvous | None]:
    """Start the other processes of a shared model, unless torchrun has; return where to meet.

    Raises CheckpointError for a model that cannot be shared so, before anything is started.
    """
    size = options.tensor_parallel_size
    if size == 1:
        return TpLauncher([]), None
    TensorShard(0, size).of_config(model_files(folder).network_config())
    if (rendezvous := Rendezvous.by_torchrun(size)) is not None:
        return TpLauncher([]), rendezvous
    meeting_folder = Path(tempfile.mkdtemp(prefix="nearfar-group-"))
    address = f"file://{meeting_folder / 'rendezvous'}"
    job = {"folder": str(folder.resolve()), "options": asdict(options), "address": address}
    processes = [_start(rank, job) for rank in range(1, size)]
    return TpLauncher(processes, meeting_folder), Rendezvous(rank=0, size=size, address=address)


def _start(rank: int, job: Mapping[str, object]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.torch.tp_worker", str(rank)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None, "its input is a pipe"
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process
