"""Chat templates, rendered in a sandbox: a template comes with a model file, from anyone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from backbone.errors import CheckpointError


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
) -> str:
    """Return the prompt that a Hugging Face chat template makes of the messages.

    Raises CheckpointError where the template is broken, refuses the messages, or tries to reach
    outside its sandbox.
    """
    # Imported here: jinja2 costs a tenth of a second that `--help` need not pay.
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    # What transformers offers to a template; its `tojson`, unlike Jinja's, does not escape HTML.
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    environment.filters["tojson"] = _to_json
    try:
        return environment.from_string(template).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except Exception as error:  # a stranger's program may raise anything
        raise CheckpointError(
            f"the model's chat template cannot render this conversation ({error}); "
            "use another model, or ask with a plain prompt"
        ) from None


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
