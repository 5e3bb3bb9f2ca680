"""The link in a storm: 100,000 requests while the network and the cloud fail in every way we know.

    python -m benchmarks.link_chaos                 a minute, to look at
    python -m benchmarks.link_chaos --full          all of it, into link_chaos.json here
    python -m benchmarks.link_chaos --full --limit 300       a part; said again, it goes on

No request may be lost, doubled, garbled or left hanging: each is answered whole by the cloud, or
the link says that it cannot and the device answers itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from tests.offload.storm import Account, storm

_FULL = 100_000
_RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="100,000 requests, in parts or at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, help="seconds at most; 60 without --full")
    options = parser.parse_args()
    account, part = _before() if options.full else (Account(), 0)
    seed = options.seed + part
    limit_s = options.limit or (3600.0 if options.full else 60.0)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            storm(
                Path(folder),
                num_requests=_FULL - account.num_requests,
                seed=seed,
                limit_s=limit_s,
                account=account,
                on_progress=_show,
            )
        )
    result = _result(account, part + 1, options.seed)
    print(json.dumps(result, indent=2))
    if options.full:
        _RESULT.write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if account.is_good else 1)


def _before() -> tuple[Account, int]:
    """Return the account of the parts run so far and their number; a whole one is begun anew."""
    if not _RESULT.exists():
        return Account(), 0
    kept: dict[str, Any] = json.loads(_RESULT.read_text())
    if kept["requests"] >= _FULL:
        return Account(), 0
    account = Account(**kept["account"])
    account.faults = Counter(account.faults)
    return account, kept["parts"]


def _result(account: Account, parts: int, seed: int) -> dict[str, Any]:
    return {
        "requests": account.num_requests,
        "good": account.is_good,
        "account": account.as_dict(),
        "seed": seed,
        "parts": parts,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
    }


def _show(account: Account) -> None:
    if account.num_requests % 5000 == 0:
        print(f"{account.num_requests} requests, {account.near} of them answered near", flush=True)


if __name__ == "__main__":
    main()
