"""The command reference says what the commands say, and every page of the site is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from edge.chat.chat_commands import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_command_reference_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/document_commands", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_page_of_the_site_and_every_link_between_pages_exists() -> None:
    named = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(named) > 4 and all((DOCS / name).exists() for name in named)
    for page in map(DOCS.joinpath, named):
        links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text())
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, (page, missing)


def test_the_chats_page_names_every_command() -> None:
    page = (DOCS / "chat.md").read_text()
    assert not [name for name in COMMANDS if name not in page and name not in ("/help", "/exit")]
