"""The figures of docs/measured.md and of the README are those of the results kept beside them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import figures
from benchmarks.figures_rows import TABLES

ROOT = Path(__file__).parents[1]


def test_the_page_says_what_the_results_say() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/bench", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_row_names_its_file_the_day_and_the_commit() -> None:
    for rows in TABLES.values():
        for line in figures.table(rows).splitlines()[2:]:
            found = re.search(
                r"\.\./benchmarks/(\w+\.json)\), \d{4}-\d\d-\d\d `[0-9a-f]{7,}\+?`", line
            )
            assert found and (ROOT / "benchmarks" / found[1]).exists(), line


def test_every_benchmark_measures_code_that_exists() -> None:
    for benchmark in figures.BENCHMARKS:
        assert benchmark.path.exists(), benchmark.result
        assert not [path for path in benchmark.code if not (ROOT / path).exists()]


def test_every_result_is_known_and_marked() -> None:
    kept = {path.name for path in (ROOT / "benchmarks").glob("*.json")} - {"measured.json"}
    assert kept == {benchmark.result for benchmark in figures.BENCHMARKS}
    assert kept <= set(json.loads(figures.MARKS.read_text()))


def test_the_readme_tells_what_the_demo_measured() -> None:
    demo = json.loads((ROOT / "benchmarks" / "demo.json").read_text())
    readme = (ROOT / "README.md").read_text()
    gap = demo["cloud_accuracy"] - demo["edge_accuracy"]
    way = (demo["hybrid_accuracy"] - demo["edge_accuracy"]) / gap
    for told in (
        f"| near only | {demo['edge_accuracy']:.1%} | 0% |",
        f"| far only | {demo['cloud_accuracy']:.1%} | 100% |",
        f"| **hybrid** | **{demo['hybrid_accuracy']:.1%}** | **{demo['escalated_share']:.1%}** |",
        f"and sent {demo['bytes_sent']:,} bytes: {way:.0%} of the way",
    ):
        assert told in readme, told
