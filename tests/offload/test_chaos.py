from __future__ import annotations

from pathlib import Path

from tests.offload.storm import storm


async def test_in_a_storm_nothing_is_lost_or_doubled_or_hangs(tmp_path: Path) -> None:
    account = await storm(tmp_path, num_requests=2_000, seed=1, limit_s=6)
    assert account.from_cloud > 50
    assert account.num_connections > 4
    assert (account.wrong, account.hung, account.ran_twice, account.broke) == (0, 0, 0, 0), account
