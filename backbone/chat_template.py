"""Chat templates, rendered in a sandbox: a template comes with a model file, from anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from backbone.errors import CheckpointError, TemplateRefusal

if TYPE_CHECKING:
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_REPEATED = 10_000  # characters or items that a template may make by multiplication


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """Return the prompt that a Hugging Face chat template makes of the messages and tools.

    Raises TemplateRefusal where the template refuses the messages, and CheckpointError where it
    is broken or tries to reach outside its sandbox.
    """
    environment = _sandbox()
    # What transformers offers to a template; its `tojson`, unlike Jinja's, does not escape HTML.
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template).render(
            messages=list(messages),
            tools=list(tools) or None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except TemplateRefusal:
        raise
    except Exception as error:  # a stranger's program may raise anything
        raise CheckpointError(
            f"the model's chat template cannot render this conversation ({error}); "
            "use another model, or ask with a plain prompt"
        ) from None


def _sandbox() -> ImmutableSandboxedEnvironment:
    # Imported here: jinja2 costs a tenth of a second that `--help` need not pay.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        """Jinja's sandbox bounds ranges; this one bounds products and powers too."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            if operator == "**" or _repeats_too_much(left, right):
                raise OverflowError("it makes a text or a number without bounds")
            return super().call_binop(context, operator, left, right)

    return Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])


def _repeats_too_much(left: Any, right: Any) -> bool:
    """Whether a product is of a text or list and would grow past all use."""
    if isinstance(left, int) and hasattr(right, "__len__"):
        left, right = right, left
    return hasattr(left, "__len__") and isinstance(right, int) and len(left) * right > MAX_REPEATED


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(
        f"the model's chat template cannot take this conversation ({message}); "
        "change the messages, or ask with a plain prompt"
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
