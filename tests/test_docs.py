"""The documents say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from offload.pair import EDGE_POLICY
from offload.policy.serving.policy_file import read_policy

ROOT = Path(__file__).parents[1]
ROOMS = ("backbone", "cloud", "edge", "engine", "offload", "quantize", "serve")


def test_the_map_of_modules_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/document", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert not re.findall(r"^\| `[^`]+` \|  \|$", page, flags=re.MULTILINE)


def test_the_map_shows_every_package_and_names_only_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("<!--")[0]
    shown = page.partition("## The map")[2].partition("| where is")[0]
    packages = [path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    tops = {path.relative_to(ROOT).parts[:2] for path in packages}
    assert {names[-1] for names in tops} <= set(re.findall(r"(\w+)/", shown))
    named = set(re.findall(r"`(\w+(?:/\w+)+(?:\.py|/))`", page))
    was = {"edge/desk/"}
    assert len(named) > 20 and not [path for path in named - was if not (ROOT / path).exists()]


def test_the_model_card_tells_the_policy_that_ships() -> None:
    card, found = (EDGE_POLICY.parent / "README.md").read_text(), read_policy(EDGE_POLICY).found
    assert f"{found.num_fitted + found.num_held:,}" in card
    assert f"{found.auroc:.3f}" in card


def test_every_path_that_the_readme_names_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"\]\(((?!https?:)[^)#]+)\)", readme)
    assert named and not [path for path in named if not (ROOT / path).exists()]


def test_no_mark_of_a_conflict_was_left() -> None:
    found = subprocess.run(
        ["git", "grep", "-nE", "^(<{7}|>{7}|={7}$)", "--", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert found.stdout == ""
