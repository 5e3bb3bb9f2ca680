"""The memory of `nearfar serve` while its clients hang up in the middle of their answers.

    python -m benchmarks.aborts

Streams are begun, AT_ONCE at a time, and cut off at their first piece. What is told is the
server's anonymous memory after each EACH of them: it grows while everything is used for the first
time, and then no more than the allocator's slack.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

EACH, NUM_ROUNDS, AT_ONCE = 1000, 5, 4


def anonymous_kb(pid: int) -> int:
    """Return the anonymous memory of a process in kB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise AssertionError("the kernel tells no anonymous memory")


async def abort(port: int, request: bytes) -> None:
    """Begin a stream, and reset the connection once its first piece is there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await reader.readuntil(b"data:")
    writer.transport.abort()


async def measure(pid: int, port: int, request: bytes) -> dict[str, object]:
    """Abort all the streams, and return the memory after each round."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with places:
            await abort(port, request)

    began_s, held = time.monotonic(), [anonymous_kb(pid)]
    for _ in range(NUM_ROUNDS):
        await asyncio.gather(*(one() for _ in range(EACH)))
        held.append(anonymous_kb(pid))
    return {
        "anonymous_kb": held,
        "bytes_per_abort_of_the_last_round": round(1024 * (held[-1] - held[-2]) / EACH),
        "aborts_per_round": EACH,
        "seconds": round(time.monotonic() - began_s),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def main() -> None:
    """Start the server, abort its streams, and write the figures beside this file."""
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [sys.executable, "-m", "nearfar", "serve", "--port", "0", "--json"],
            env={**os.environ, "NEARFAR_HOME": home},
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None, "its output is a pipe"
        told = json.loads(server.stdout.readline())
        url = httpx.URL(told["url"])
        while httpx.get(url.copy_with(path="/ready")).status_code != 200:
            time.sleep(0.1)
        question = [{"role": "user", "content": "Tell me about Paris please"}]
        body = json.dumps(
            {"model": told["models"][0], "stream": True, "max_tokens": 200, "messages": question}
        )
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        found = asyncio.run(measure(server.pid, url.port or 0, (head + body).encode()))
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
