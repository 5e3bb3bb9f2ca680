from __future__ import annotations

from pathlib import Path

from tests.offload.storm import Account, storm


def _enough(account: Account) -> bool:
    return (
        account.from_cloud > 50 and account.num_connections > 4 and sum(account.faults.values()) > 4
    )


async def test_in_a_storm_nothing_is_lost_or_doubled_or_hangs(tmp_path: Path) -> None:
    account = await storm(tmp_path, num_requests=20_000, seed=1, enough=_enough, limit_s=300)
    assert _enough(account), account
    assert (account.wrong, account.hung, account.ran_twice, account.broke) == (0, 0, 0, 0), account
