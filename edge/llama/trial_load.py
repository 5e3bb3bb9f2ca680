"""Trial load of an unknown model in a process of its own, since llama.cpp may end it.

Some damage (a vocabulary with a word twice, impossible dimensions) fails an assertion inside
llama.cpp, which ends the process without a chance to say why. A file that once survived is
known by its fingerprint and is never tried again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from backbone.errors import CheckpointError, NearfarError
from backbone.files import atomic_write
from edge.llama.context import Context, ContextParams
from edge.llama.gguf_file import check_header, fingerprint
from edge.llama.native_handles import Model

TRIAL_S = 600.0  # even a large model on a slow disk is loaded by then
MAX_KNOWN = 1000


def require_survival(path: Path, known_file: Path) -> None:
    """Raise CheckpointError for a file that would end the process that loads it.

    `known_file` remembers the fingerprints of those that do not; it may be deleted at any time.
    """
    check_header(path)
    name = fingerprint(path)
    known = _read(known_file)
    if name in known:
        return
    status, cause = _load_in_child(path)
    if status == 0:
        _write(known_file, [*known, name][-MAX_KNOWN:])
    elif was_killed(status):  # anything else is a refusal, and the real load will say why
        raise CheckpointError(f"{path} is damaged: llama.cpp dies of it ({cause}); fetch it again")


def was_killed(status: int) -> bool:
    """Whether a child ended by a signal, or by one of Windows' exceptions, as 0xC0000005."""
    return status < 0 or status >= 0x8000_0000


def _load_in_child(path: Path) -> tuple[int, str]:
    """Return the child's exit status and the cause."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__, str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"not loaded after {TRIAL_S:.0f} s"
    lines = child.stderr.decode("utf-8", "replace").splitlines()
    failed = next((line for line in lines if "ASSERT" in line), f"status {child.returncode}")
    return child.returncode, failed.rsplit("/", 1)[-1].strip()


def _read(known_file: Path) -> list[str]:
    try:
        return msgspec.json.decode(known_file.read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError):
        return []


def _write(known_file: Path, names: list[str]) -> None:
    with contextlib.suppress(OSError):  # then it is tried again next time
        known_file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(known_file, msgspec.json.encode(names))


def main(path: Path) -> int:
    """Load a model and evaluate one token; return the exit status."""
    try:
        with Model(path) as model, Context(model, ContextParams(num_tokens=64)) as context:
            context.decode([0], 0)
    except NearfarError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
