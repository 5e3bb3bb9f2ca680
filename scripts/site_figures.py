"""A hook of MkDocs: the figures that a page links to, in benchmarks/, become part of the site.

In a checkout the links lead out of docs/, where readers of the repository follow them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_LINK = re.compile(r"\]\(\.\./(benchmarks/[\w.]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to."""
    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    linked = {
        name for page in files.documentation_pages() for name in _LINK.findall(page.content_string)
    }
    for name in sorted(linked):
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead the links of a page to the copies in the site."""
    return _LINK.sub(r"](\1)", markdown)
