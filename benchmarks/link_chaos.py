"""The link in a storm: 100,000 requests while the network and the cloud fail in every way we know.

    python -m benchmarks.link_chaos                 a minute, to look at
    python -m benchmarks.link_chaos --full          the whole of it; writes link_chaos.json here

No request may be lost, doubled, garbled or left hanging: each is answered whole by the cloud, or
the link says that it cannot and the device answers itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
from pathlib import Path

import zmq

from tests.offload.storm import Account, storm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="100,000 requests, however long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds at most")
    options = parser.parse_args()
    num_requests = 100_000 if options.full else 1_000_000
    limit_s = options.limit if options.full else min(options.limit, 60.0)
    with tempfile.TemporaryDirectory() as folder:
        account = asyncio.run(
            storm(
                Path(folder),
                num_requests=num_requests,
                seed=options.seed,
                limit_s=limit_s,
                on_progress=_show,
            )
        )
    result = {
        "requests": account.from_cloud + account.near,
        "good": not (account.wrong or account.hung or account.ran_twice or account.broke),
        **account.as_dict(),
        "seed": options.seed,
        "machine": platform.platform(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
    }
    print(json.dumps(result, indent=2))
    if options.full:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    raise SystemExit(0 if result["good"] else 1)


def _show(account: Account) -> None:
    done = account.from_cloud + account.near
    if done % 5000 == 0:
        print(f"{done} requests, {account.near} of them answered near", flush=True)


if __name__ == "__main__":
    main()
