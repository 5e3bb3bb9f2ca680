"""Chat templates: read from a folder, and rendering a conversation as the prompt of training.

A template may refuse what people send: a system prompt, two turns of one role in a row. Then it is
given the same words in a form that it takes: the system prompt before the first question, turns of
one role as one. Nothing that was said is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backbone.errors import CheckpointError, TemplateRefusal, cause
from backbone.file_reading import MAX_CONFIG_BYTES, read_text
from backbone.template_process import process_of

DEFAULT, TOOL_USE = "default", "tool_use"


def read_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return templates by name; `settings` is what tokenizer_config.json says.

    A file of its own goes before the settings, as in transformers. Raises CheckpointError.
    """
    found = _of_settings(settings.get("chat_template"))
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[path.stem] = _text(path)
    if (alone := folder / "chat_template.jinja").is_file():
        found[DEFAULT] = _text(alone)
    return found


def choose_template(templates: Mapping[str, str], *, tools: bool) -> str | None:
    """Return the template of a conversation, with tools or without; None where there is none."""
    if tools and TOOL_USE in templates:
        return templates[TOOL_USE]
    return templates.get(DEFAULT)


def _of_settings(given: object) -> dict[str, str]:
    if isinstance(given, str):
        return {DEFAULT: given}
    named = given if isinstance(given, list) else []
    rows = ((row.get("name"), row.get("template")) for row in named if isinstance(row, dict))
    return {name: text for name, text in rows if isinstance(name, str) and isinstance(text, str)}


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_CONFIG_BYTES, pipes=False)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}); fetch it again") from None


Turn = Mapping[str, Any]
Write = Callable[[list[dict[str, Any]]], str]
_BETWEEN = "\n\n"


class Rendered(NamedTuple):
    """Rendered prompt, and the turns as the template was given them."""

    text: str
    turns: list[dict[str, Any]]


def prepare(template: str) -> None:
    """Start what renders a template, so that it is ready when it is needed; waits for nothing."""
    process_of(template)


def render(
    template: str,
    messages: Sequence[Turn],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    add_generation_prompt: bool = True,
    special_tokens: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Rendered:
    """Return the prompt that a Hugging Face chat template makes of the messages and tools.

    `special_tokens` are texts by name, such as "bos_token"; `options` are variables of this
    template's own, such as "enable_thinking". Raises TemplateRefusal where the
    template refuses the messages in every form, and CheckpointError where it is broken, tries to
    reach outside its sandbox, or takes too much time or memory.
    """
    given = {
        **(options or {}),
        "tools": list(tools) or None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **(special_tokens or {}),
    }

    def write(turns: list[dict[str, Any]]) -> str:
        return process_of(template).render({"messages": turns, **given})

    return _first_whole(write, [dict(turn) for turn in messages])


def _first_whole(write: Write, turns: list[dict[str, Any]]) -> Rendered:
    """Return the first form that the template takes and says all of; else the first it takes."""
    refusal: TemplateRefusal | None = None
    partial: Rendered | None = None
    for form in _forms(turns):
        try:
            written = _with_arguments(write, form)
        except TemplateRefusal as error:
            refusal = refusal or error
            continue
        except CheckpointError:
            if partial is not None:
                break
            raise
        if _says_system(written.text, form):
            return written
        partial = partial or written
    if partial is not None:
        return partial
    assert refusal is not None, "there is at least one form"
    raise refusal


def _forms(turns: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the turns as they are, and then as more templates take them; none of them twice."""
    yield turns  # nearly always the only one
    seen, merged = [turns], _without_system(turns)
    for form in (_joined(turns), merged, _joined(merged)):
        if form not in seen:
            seen.append(form)
            yield form


def _without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns with what the system says before the first question, in its turn."""
    said = [turn["content"] for turn in turns if turn["role"] == "system" and turn["content"]]
    rest = [dict(turn) for turn in turns if turn["role"] != "system"]
    first = next((turn for turn in rest if turn["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": _BETWEEN.join(said)}, *rest] if said else turns
    first["content"] = _BETWEEN.join([*said, first["content"]])
    return rest


def _joined(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the turns with those of one role that follow one another as one."""
    joined: list[dict[str, Any]] = []
    for turn in turns:
        last = joined[-1] if joined else None
        if last is not None and _are_one(last, turn):
            last["content"] = _BETWEEN.join(filter(None, (last["content"], turn["content"])))
        else:
            joined.append(dict(turn))
    return joined


def _are_one(one: Turn, other: Turn) -> bool:
    bare = all(set(turn) == {"role", "content"} for turn in (one, other))
    return bare and one["role"] == other["role"] != "tool"


def _says_system(text: str, turns: list[dict[str, Any]]) -> bool:
    return all(turn["content"].strip() in text for turn in turns if turn["role"] == "system")


def _with_arguments(write: Write, turns: list[dict[str, Any]]) -> Rendered:
    """Return the prompt; where the template wants the arguments of calls as text, it gets text.

    Some join them to their own text and break on an object; others print it as Python would.
    """
    arguments = [args for args in _arguments(turns) if isinstance(args, dict) and args]
    if not arguments:
        return Rendered(write(turns), turns)
    as_text = _with_text_arguments(turns)
    try:
        text = write(turns)
    except TemplateRefusal:
        raise
    except CheckpointError as error:
        try:
            return Rendered(write(as_text), as_text)
        except CheckpointError:
            raise error from None
    if any(str(args) in text and str(args) != json.dumps(args) for args in arguments):
        return Rendered(write(as_text), as_text)
    return Rendered(text, turns)


def _arguments(turns: list[dict[str, Any]]) -> Iterator[Any]:
    return (
        call["function"]["arguments"] for turn in turns for call in turn.get("tool_calls") or ()
    )


def _with_text_arguments(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**turn, "tool_calls": [_as_text(call) for call in turn["tool_calls"]]}
        if turn.get("tool_calls")
        else turn
        for turn in turns
    ]


def _as_text(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if not isinstance(function["arguments"], str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": function}
