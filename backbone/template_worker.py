"""Template worker: renders one chat template within limits: `python -m backbone.template_worker`.

A template comes with a model file, from anyone, and its language can loop for ever and fill any
memory. So it runs here, where the system ends it. A JSON line in, a JSON line out: the first one in
is the template, each later one the variables of a render.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from backbone.worker_process import limit_memory, limited_time

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CPU_S = 2.0  # of one render; real templates take a thousandth of it
MAX_MEMORY_BYTES = 512 * 2**20  # beyond what the process has when it is ready
MAX_TEXT_BYTES = 64 * 2**20
MAX_REPEATED = 10_000  # characters or items that a template may make by multiplication
_MAX_REASON = 300  # characters of an error


class TemplateRefused(Exception):
    """The template called raise_exception."""


def main() -> None:
    """Serve renders until the input ends."""
    render = _compiled(json.loads(sys.stdin.buffer.readline()))
    limit_memory(MAX_MEMORY_BYTES)
    for line in sys.stdin.buffer:
        with limited_time(MAX_CPU_S):
            reply = json.dumps(_reply(render, line)).encode()
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


def _compiled(template: str) -> Callable[..., str]:
    """Return what renders the template; a broken one raises what is wrong with it each time."""
    compiled: Template | None = None
    try:
        with limited_time(MAX_CPU_S):
            compiled = environment().from_string(template)
    except Exception as error:
        broken = error

    def render(**variables: Any) -> str:
        if compiled is None:
            raise broken
        return compiled.render(**variables)

    return render


def _reply(render: Callable[..., str], line: bytes) -> dict[str, str]:
    try:
        text = render(**json.loads(line))
        if len(text) > MAX_TEXT_BYTES:
            return {"error": "it makes a text or a number without bounds"}
        return {"text": text}
    except TemplateRefused as refused:
        return {"refused": _short(refused)}
    except MemoryError:
        return {"error": "it makes a text or a number without bounds"}
    except Exception as error:  # a stranger's program may raise anything
        return {"error": _short(error)}


def _short(error: Exception) -> str:
    """Return what an error says, as one line that a terminal may be given."""
    said = str(error)[:_MAX_REASON] or type(error).__name__
    return "".join(each if each.isprintable() else " " for each in said)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what transformers renders chat templates with, and bounds on products and powers.

    Source: `transformers.utils.chat_template_utils`, for what a template may use.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks, for training, what an assistant wrote; here it says nothing."""

        tags = frozenset({"generation"})  # type: ignore[assignment]

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        def _said(self, caller: Callable[[], str]) -> str:
            return caller()

    class Bounded(ImmutableSandboxedEnvironment):
        """Jinja's sandbox bounds ranges; this one bounds products and powers too."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _repeats_too_much(left, right):
                raise OverflowError("it makes a text or a number without bounds")
            return super().call_binop(context, operator, left, right)

    made = Bounded(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _now
    made.filters["tojson"] = _to_json
    return made


def _repeats_too_much(left: Any, right: Any) -> bool:
    """Whether a product is of a text or list and would grow past all use."""
    if isinstance(left, int) and hasattr(right, "__len__"):
        left, right = right, left
    return hasattr(left, "__len__") and isinstance(right, int) and len(left) * right > MAX_REPEATED


def _refuse(message: object) -> NoReturn:
    raise TemplateRefused(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, and transformers' does not.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


if __name__ == "__main__":
    main()
