"""What each action would have come to, on tables of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offload.errors import RequestError
from offload.policy.fitting.action_replay import action_lines, replay_actions
from offload.policy.serving.rule import Limit
from tests.offload.hybrid.pairs import Told


class Doubting(Told):
    """A rule that doubts every answer, unless a far model finds it likely."""

    def limit(self, aim: Any, *, min_gain: float | None = None, cost: float = 0.0) -> Limit:
        return Limit(max_need=0.4)


def table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    token = [-0.5, 0.1, 1.0]
    return {
        "near": table(
            tmp_path,
            "near",
            [{"id": str(n), "right": n < 2, "tokens": [token] * 3} for n in range(5)],
        ),
        "far": table(
            tmp_path,
            "far",
            [{"id": str(n), "right": n != 1, "tokens": [token] * 10} for n in range(4)],
        ),
        "checked": table(
            tmp_path,
            "checked",
            [
                {"id": str(n), "tokens": [[-0.01 if n < 2 else -5.0, 0, 0.1]], "prompt_tokens": 50}
                for n in range(4)
            ],
        ),
        "lent": table(
            tmp_path,
            "lent",
            [
                {"id": str(n), "right": n < 3, "way": way, "lent": 4, "visits": 1, "far_read": 60}
                for n in range(4)
                for way in ("near", "numbers")
            ],
        ),
    }


def test_each_action_is_replayed_on_the_questions_that_all_tables_hold(
    tables: dict[str, Path],
) -> None:
    found = replay_actions(
        tables["near"],
        tables["far"],
        Doubting(right=0.4, far=0.9),
        checked=tables["checked"],
        lent=tables["lent"],
    )
    assert found.num_questions == 4 and set(found.actions) == {
        "near",
        "ask",
        "always far",
        "check, then ask",
        "lend: numbers",
    }
    actions = found.actions
    assert actions["near"].accuracy == 0.5 and actions["near"].far_written == 0.0
    assert actions["ask"].accuracy == 0.75 and actions["ask"].far_written == 10.0
    check = actions["check, then ask"]
    assert (check.accuracy, check.asked_far, check.far_written) == (1.0, 0.5, 5.0)
    assert check.far_read == 50.0
    lend = actions["lend: numbers"]
    assert (lend.accuracy, lend.far_written, lend.visits, lend.far_read) == (0.75, 4.0, 1.0, 60.0)
    assert any("check, then ask" in line and "100.0%" in line for line in action_lines(found))


def test_tables_without_a_question_in_common_are_refused(
    tables: dict[str, Path], tmp_path: Path
) -> None:
    other = table(tmp_path, "other", [{"id": "x", "tokens": [[-1.0, 0, 0.1]]}])
    with pytest.raises(RequestError, match="share no id"):
        replay_actions(tables["near"], tables["far"], Told(), checked=other)
    with pytest.raises(RequestError, match="no table of this kind"):
        replay_actions(tables["near"], tables["far"], Told(), lent=tables["checked"])
