"""The page's Markdown: what it makes of a text, and that its time grows as the text's length."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import edge.assistant

PAGE = Path(edge.assistant.__file__).parent / "page"
MOST_GROWTH = 1.2
UNSEEN_S = 0.5  # what grows with the square takes seconds

SHOWN = {
    "a `b` c ``d ` e`` f": "<P>a <CODE>b</> c <CODE>d ` e</> f</>",
    "**bold *it* x**, *i*, _j_, __k__, ~~s~~, a_b_c": "<P><STRONG>bold <EM>it</> x</>, <EM>i</>, "
    "<EM>j</>, <STRONG>k</>, <S>s</>, a_b_c</>",
    "[l](http://a.b/c) [bad](javascript:x)": "<P><A>l</> [bad](javascript:x)</>",
    "see (https://x.y/z), ok": "<P>see (<A>https://x.y/z</>), ok</>",
    "http://": "<P>http://</>",
    "\\*no\\* 5 * 3 * 2 `a": "<P>*no* 5 * 3 * 2 `a</>",
    "# Head ##": "<H3>Head</>",
    "|a|b|\n|-|:-:|\n|1|2|": "<DIV><TABLE><THEAD><TR><TH>a</><TH>b</></></>"
    "<TBODY><TR><TD>1</><TD>2</></></></></>",
    "* a\n  * b": "<UL><LI>a<UL><LI>b</></></></>",
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node to run the page's modules outside a browser")
    page = tmp_path_factory.mktemp("page")
    for module in PAGE.glob("*.js"):
        shutil.copy(module, page)
    (page / "package.json").write_text('{"type": "module"}')
    script = shutil.copy(Path(__file__).with_name("markdown_growth.mjs"), page)
    done = subprocess.run(
        [node, script, (page / "markdown.js").as_uri(), json.dumps(list(SHOWN))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_markdown_becomes_the_nodes_it_means(read: dict[str, Any]) -> None:
    assert read["shown"] == SHOWN


def test_time_grows_with_the_length_of_hostile_markdown_and_no_quicker(
    read: dict[str, Any],
) -> None:
    for name, each in read["told"].items():
        if each["long"] < UNSEEN_S:
            continue
        growth = math.log(each["long"] / max(1e-6, each["short"])) / math.log(each["times"])
        assert growth <= MOST_GROWTH, f"{name}: {each}"
