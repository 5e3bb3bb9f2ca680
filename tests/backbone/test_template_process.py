"""A template from a stranger runs where its end is certain, and costs its own request only."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from backbone import template_process, template_worker
from backbone.chat_template import prepare, render
from backbone.errors import CheckpointError
from backbone.template_process import TemplateProcess, process_of

HELLO = [{"role": "user", "content": "hi"}]
GROW = (
    "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x STEP %}{% endfor %}"
)
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "nested loops": LOOPS,
    "macros that call twice": "{% macro f(n) %}{{ f(n + 1) if n < 90 }}{{ f(n + 1) if n < 90 }}"
    "{% endmacro %}{{ f(0) }}",
    "equal trees": "{% set a = namespace(x=[1]) %}{% set b = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set a.x = [a.x, a.x] %}{% set b.x = [b.x, b.x] %}{% endfor %}"
    "{{ a.x == b.x }}",
}
LARGE = {
    "concatenation": GROW.replace("STEP", "~ ns.x") + "{{ ns.x }}",
    "addition": GROW.replace("STEP", "+ ns.x") + "{{ ns.x }}",
    "blocks": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40 + "{{ x }}",
    "centring": "{{ 'a'.center(10 ** 12) }}{{ 'a' | center(999999999999) }}",
    "padding": "{{ '%999999999999d' % 1 }}",
    "formatting": "{{ '{:>999999999999}'.format(1) }}",
    "replacing": "{{ ('a' * 9999).replace('a', 'b' * 9999).replace('b', 'c' * 9999) }}",
    "joining": "{{ range(99999) | join('x' * 9999) }}{{ range(99999) | join('x' * 9999) }}",
    "indenting": "{{ [1] | tojson(indent=99999999999) }}",
    "filling": "{{ [1] | batch(9999999999, 'x') | list | length }}",
}


@pytest.mark.parametrize("name", [*ENDLESS, *LARGE])
def test_a_template_without_end_or_bounds_costs_its_own_render_only(name: str) -> None:
    process = TemplateProcess((ENDLESS | LARGE)[name])
    with pytest.raises(CheckpointError, match=r"time or memory|without bounds"):
        process.render({"messages": HELLO})
    assert render("{{ messages[0].content }}", HELLO).text == "hi"


def test_a_template_that_hangs_for_some_messages_serves_the_others() -> None:
    process = TemplateProcess("{% if messages[0].content == 'x' %}" + LOOPS + "{% endif %}ok")
    assert process.render({"messages": HELLO}) == "ok"
    with pytest.raises(CheckpointError):
        process.render({"messages": [{"role": "user", "content": "x"}]})
    assert process.render({"messages": HELLO}) == "ok"


def test_another_template_is_rendered_while_one_hangs() -> None:
    ended = threading.Event()

    def hang() -> None:
        with pytest.raises(CheckpointError):
            render(ENDLESS["nested loops"], HELLO)
        ended.set()

    thread = threading.Thread(target=hang)
    thread.start()
    assert render("{{ messages[0].content }}!", HELLO).text == "hi!"
    assert not ended.is_set()
    thread.join()


def test_a_process_is_started_once_and_kept() -> None:
    template = "{{ messages[0].content }} kept"
    prepare(template)
    first = process_of(template)._running().process.pid
    assert {render(template, HELLO).text for _ in range(3)} == {"hi kept"}
    assert process_of(template)._running().process.pid == first


def test_a_process_that_was_ended_from_outside_is_replaced() -> None:
    process = TemplateProcess("{{ messages[0].content }}")
    process._running().process.kill()
    process._running().process.wait()
    assert process.render({"messages": HELLO}) == "hi"


def test_a_process_ends_with_whoever_had_it() -> None:
    process: Any = TemplateProcess("{{ messages[0].content }}")
    child = process._running().process
    del process
    gc.collect()
    assert child.poll() is not None


def test_no_secret_of_the_environment_reaches_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def popen(*_: Any, **options: Any) -> Any:
        seen.update(options["env"])
        raise OSError(12, "no")

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NEARFAR_KEY", "secret")
    monkeypatch.setattr(template_process.subprocess, "Popen", popen)
    with pytest.raises(CheckpointError, match="cannot be started"):
        TemplateProcess("x")
    assert "PATH" in seen and not {"HF_TOKEN", "NEARFAR_KEY"} & set(seen)


def test_what_a_template_says_is_one_line_that_a_terminal_can_be_given() -> None:
    text = "{{ raise_exception('a\\x1b]52;c;x\\x07b\\n' * 99) }}"
    with pytest.raises(CheckpointError) as caught:
        render(text, HELLO)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_broken_template_is_told_each_time() -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match="nosuchfilter"):
            render("{{ messages | nosuchfilter }}", HELLO)


def test_the_worker_answers_lines_until_there_are_no_more(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    import io
    import sys

    lines = b'"{{ x }}"\n{"x": 1}\n{"x": "\\u00e9"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    monkeypatch.setattr(template_worker, "limit_memory", lambda _: None)
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    template_worker.main()
    assert out.buffer.getvalue() == b'{"text": "1"}\n{"text": "\\u00e9"}\n'  # type: ignore[attr-defined]
