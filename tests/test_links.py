"""No dead link in any document: every path exists, and every anchor is a heading of its page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "benchmarks", "examples", "offload/pair", "scripts")
    for path in (ROOT / folder).glob("*.md")
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
ELSEWHERE = re.compile(r"[a-z]+:")


def prose(path: Path) -> str:
    return CODE.sub("", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """The anchors that Markdown renderers make of a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ +(.*?)#*$", text, re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads]
    return {*made, *(f"{name}-{number}" for number in (1, 2) for name in made)}


def links() -> list[tuple[Path, str]]:
    return [(page, link) for page in DOCUMENTS for link in LINK.findall(prose(page))]


def test_there_are_links_to_look_at() -> None:
    assert len(DOCUMENTS) > 15 and len(links()) > 40


def test_every_link_within_the_project_leads_somewhere() -> None:
    dead = []
    for page, link in links():
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(ROOT)
        if not inside or not target.exists():
            dead.append(f"{page.relative_to(ROOT)}: {link}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            dead.append(f"{page.relative_to(ROOT)}: {link} (no such heading)")
    assert dead == []


def test_every_page_is_in_the_sites_navigation_and_the_start_leads_to_all() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/-]+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == pages
    reached = {link.partition("#")[0] for page, link in links() if page.name == "index.md"}
    assert pages - reached - {"index.md"} == set()


def test_a_link_out_of_the_pages_leads_to_a_figure_that_the_site_takes_along() -> None:
    """scripts/site_figures.py copies what lies in benchmarks/, and nothing else."""
    out = {link for page, link in links() if page.parent.name == "docs" and link.startswith("../")}
    assert out and all(re.fullmatch(r"\.\./benchmarks/[\w.]+", link) for link in out)
