from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from offload.errors import SettingsError
from offload.link.keys import KeyPair
from offload.link.sockets import Address

# In processes of their own: where this goes wrong, libzmq aborts the process.
_PROLOGUE = """
import time, zmq
from offload.link.sockets import Address, dial, listen
router = listen(zmq.Context(), "tcp://127.0.0.1:0", None)
endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
device, monitor = dial(Address(endpoint=endpoint))
device.send_multipart([b"1", b"2", b"3"])
assert router.poll(60_000)
"""
_DEVICE_VANISHES = """
heard = [router.recv(), router.recv()]
device.disable_monitor(); monitor.close(); device.close(linger=0)
time.sleep(0.2)
router.getsockopt(zmq.EVENTS)
heard += [router.recv(zmq.NOBLOCK), router.recv(zmq.NOBLOCK)]
assert heard[1:] == [b"1", b"2", b"3"], heard
router.close()
"""
_CLOUD_VANISHES = """
who = router.recv_multipart()[0]
router.send_multipart([who, b"1", b"2", b"3"])
assert device.poll(60_000)
heard = [device.recv()]
router.close(linger=0)
time.sleep(0.2)
device.getsockopt(zmq.EVENTS)
heard += [device.recv(zmq.NOBLOCK), device.recv(zmq.NOBLOCK)]
assert heard == [b"1", b"2", b"3"], heard
device.disable_monitor(); monitor.close(); device.close()
"""


@pytest.mark.parametrize("what_happens", [_DEVICE_VANISHES, _CLOUD_VANISHES])
def test_a_peer_that_vanishes_between_two_frames_does_not_abort_the_process(
    what_happens: str,
) -> None:
    command = [sys.executable, "-c", _PROLOGUE + what_happens]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_half_a_set_of_keys_is_refused() -> None:
    with pytest.raises(SettingsError, match="go together"):
        Address(endpoint="tcp://127.0.0.1:1", server_key=KeyPair.new().public)
    with pytest.raises(SettingsError, match="not 40 characters"):
        Address(endpoint="tcp://127.0.0.1:1", server_key="x", device_keys=KeyPair.new())
