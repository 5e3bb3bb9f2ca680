from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edge.bench.compare import compare
from nearfar_command import whole_app


def _kept(path: Path, **samples: list[float]) -> Path:
    path.write_text(json.dumps({"model": "any", "samples": samples}))
    return path


def _run(*paths: Path) -> tuple[int, str]:
    result = CliRunner().invoke(whole_app(), ["bench", "compare", *map(str, paths), "--json"])
    return result.exit_code, result.output or str(result.exception)


def test_a_figure_that_rose_by_a_fifth_is_told_with_an_interval_around_it(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    before = random.normal(20, 1, 50).tolist()
    after = random.normal(24, 1, 50).tolist()
    first, second = _kept(tmp_path / "a", rate=before), _kept(tmp_path / "b", rate=after)
    code, output = _run(first, second)
    (figure,) = json.loads(output)["figures"]
    low, high = figure["interval95"]
    assert code == 0 and figure["change"] == pytest.approx(1.2, abs=0.05)
    assert 1.1 < low < figure["change"] < high < 1.3


def test_shares_are_told_by_their_difference() -> None:
    (row,) = compare({"right": [0, 1] * 100}, {"right": [1, 1, 1, 0] * 50})
    assert row.is_share and row.change == pytest.approx(0.25) and row.differs


def test_noise_is_no_difference() -> None:
    random = np.random.default_rng(5)
    seen = [
        compare({"s": random.normal(1, 0.3, 30)}, {"s": random.normal(1, 0.3, 30)})[0].differs
        for _ in range(40)
    ]
    assert sum(seen) <= 8, "a 95% interval leaves out the truth once in twenty"


def test_only_what_both_measured_twice_is_compared() -> None:
    rows = compare({"a": [1, 2], "b": [1], "c": [1, 2]}, {"a": [2, 3], "b": [1, 2], "d": [1, 2]})
    assert [row.name for row in rows] == ["a"]


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"rate": 1}', "has no samples")],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, content: str, told: str) -> None:
    good = _kept(tmp_path / "good", rate=[1.0, 2.0])
    (bad := tmp_path / "bad").write_text(content)
    for paths in ((good, bad), (bad, good)):
        code, output = _run(*paths)
        assert code == 1 and told in output


def test_reports_of_two_benchmarks_have_nothing_in_common(tmp_path: Path) -> None:
    code, output = _run(_kept(tmp_path / "a", rate=[1, 2]), _kept(tmp_path / "b", right=[0, 1]))
    assert code == 1 and "no figure in common" in output
