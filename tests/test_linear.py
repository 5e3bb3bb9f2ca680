"""No expression that sees text from outside takes longer than in proportion to it.

Each is fed, through the function that uses it, texts grown from its own parts. What is measured is
CPU time, and of that only the ratio between two lengths.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offload.egress.privacy.linear import Pattern, as_ascii, without_long_words
from tests.hostile import Hostile, hostile

ROOT = Path(__file__).parents[1]
ROOMS = ("backbone", "cloud", "edge", "engine", "offload", "quantize", "serve")
SHORT, LONG = 16_000, 64_000  # characters
MOST_GROWTH = 1.2  # the power of the length
UNSEEN_S = 0.25  # what grows with the square takes seconds at LONG
NUM_HOSTILE = 6  # of each expression
_USES = {"compile", "sub", "split", "match", "search", "fullmatch", "findall", "finditer"}

Reader = Callable[[str], object]


def _detector(kind: str) -> Reader:
    def read(text: str) -> object:
        from offload.egress.privacy.detect import DETECTORS
        from offload.egress.privacy.findings import Rules
        from offload.egress.privacy.normalise import normalise

        rules = Rules(names=("Maria Lindqvist", "Project Heron"))
        return list(DETECTORS[kind](normalise(text).text, rules))  # type: ignore[index]

    return read


def _redacted(text: str) -> object:
    from offload.egress.privacy.findings import Rules
    from offload.egress.privacy.redaction import clear
    from offload.messages import Message, Request

    asked = f"mail bob@example.com {text}"
    return clear(Request(messages=(Message(role="user", content=asked),)), Rules())


def _restored(text: str) -> object:
    from offload.egress.privacy.placeholder_restoring import Restorer

    restorer = Restorer({"[EMAIL_1]": "bob@example.com", "[NAME_2]": "Maria"})
    pieces = [restorer.feed(text[at : at + 7]) for at in range(0, len(text), 7)]
    return "".join((*pieces, restorer.end()))


def _called(module: str, name: str) -> Reader:
    return lambda text: getattr(importlib.import_module(module), name)(text)


def _each(*readers: Reader) -> Reader:
    return lambda text: [read(text) for read in readers]


def _pattern(module: str, *uses: tuple[str, str]) -> Reader:
    """Return what uses the patterns of a module as the module does: (name, method)."""

    def read(text: str) -> object:
        home = importlib.import_module(module)
        given = {"sub": ("", text)}
        return [getattr(getattr(home, name), use)(*given.get(use, (text,))) for name, use in uses]

    return read


def _entities(text: str) -> object:
    from offload.egress.privacy.entities import find_entities

    return list(find_entities(text))


def _words(text: str) -> object:
    from offload.documents.words import words_of

    return list(words_of(text))


def _features(text: str) -> object:
    from offload.policy.serving.features import ReadText
    from offload.policy.serving.prompt_measures import form_measures, quantity_measures

    read = ReadText(text)
    return form_measures(read), quantity_measures(read)


def _chinese(text: str) -> object:
    from edge.assistant.language import chinese

    return chinese(f"there is no conversation '{text}'; it may be deleted")


def _hub(text: str) -> object:
    from edge.models.hub import DownloadError, parse

    try:
        return parse(text)
    except DownloadError:
        return None


def _modelfile(text: str) -> object:
    from edge.chat.modelfile import parse_modelfile
    from offload.errors import RequestError

    try:
        return parse_modelfile(f"FROM here\nSYSTEM {text}", Path("/nonexistent"))
    except RequestError:
        return None


def _calls(text: str) -> object:
    from offload.tool_calls.call_reader import read_whole
    from offload.tool_calls.pythonic import parse_calls
    from tests.serve.test_call_forms import TOOLS

    return parse_calls(text), read_whole(text, TOOLS)


def _consistency(text: str) -> object:
    from offload.policy.serving.consistency import QuestionForm, consistency

    return consistency(QuestionForm.read(text), text)


def _questions(text: str) -> object:
    from offload.policy.fitting.questions import Question, is_right, numeric

    return is_right(text, "7"), numeric(text, Question(question="", answer="7"))


def _agrees(text: str) -> object:
    from offload.policy.fitting.far_labels import agrees
    from offload.policy.serving.consistency import QuestionForm

    return agrees(text, text, QuestionForm.read(text)), agrees(text, "blue", QuestionForm.read("?"))


def _flags(text: str) -> object:
    from offload.policy.serving.flags import flags, other_language

    return flags(text), other_language(text, text)


def _as_arguments(text: str) -> object:
    from offload.egress.privacy.texts import texts_of
    from offload.messages import Message, Request, ToolCall

    call = ToolCall(id="one", name="pay", arguments=text)
    return texts_of(Request(messages=(Message(role="assistant", content="a", tool_calls=(call,)),)))


def _duration(text: str) -> object:
    from offload.durations import seconds_of
    from offload.errors import SettingsError

    with contextlib.suppress(SettingsError):
        return seconds_of(text, "keep_alive")
    return None


READERS: dict[str, Reader] = {
    "backbone.checkpoint": _pattern("backbone.checkpoint", ("_PREFIX", "sub"), ("_SIGHT", "match")),
    "backbone.file_names": _pattern(
        "backbone.file_names",
        ("_FORBIDDEN", "search"),
        ("_RESERVED", "fullmatch"),
        ("_NO_WORD", "sub"),
    ),
    "backbone.schema_trial": _pattern("backbone.schema_trial", ("_RISKY", "search")),
    "backbone.terminal_text": _called("backbone.terminal_text", "readable"),
    "backbone.tokenizer": _pattern("backbone.tokenizer", ("_BYTE_PIECE", "fullmatch")),
    "cloud.fleet.model_pool": lambda text: re.split(r"(\d+)", text),
    "edge.chat.history_commands": lambda text: re.sub(r"[^\w-]+", "-", text),
    "edge.chat.typed_ahead": _called("edge.chat.typed_ahead", "messages_of"),
    "edge.chat.modelfile": _modelfile,
    "edge.models.catalogue": _pattern("edge.models.catalogue", ("_QUANTIZATION", "fullmatch")),
    "edge.models.hub": _hub,
    "edge.chat.markdown_stream": _called("edge.chat.markdown_stream", "settled"),
    "edge.models.model_files": _pattern("edge.models.model_files", ("REPO", "fullmatch")),
    "edge.models.split_models": _pattern("edge.models.split_models", ("_PART", "fullmatch")),
    "edge.assistant.language": _chinese,
    "offload.durations": _duration,
    "offload.own_sampling": _pattern("offload.own_sampling", ("_SPACES", "split")),
    "offload.hybrid.handover": _called("offload.hybrid.handover", "accepted"),
    "offload.aims": _pattern("offload.aims", ("_NAME", "fullmatch")),
    "offload.policy.serving.answer_checks": _called("offload.policy.serving.answer_checks", "sums"),
    "offload.policy.serving.consistency": _consistency,
    "offload.policy.serving.small_talk": _called(
        "offload.policy.serving.small_talk", "asks_nothing"
    ),
    "offload.policy.serving.features": _features,
    "offload.policy.serving.flags": _flags,
    "offload.policy.serving.prompt_measures": _features,
    "offload.policy.fitting.far_labels": _agrees,
    "offload.policy.fitting.questions": _questions,
    "offload.egress.privacy.contacts": _each(_detector("email"), _detector("phone")),
    "offload.egress.privacy.envelopes": _detector("address"),
    "offload.egress.privacy.identifiers": _each(
        *map(_detector, ("card", "iban", "national_id", "ip", "path"))
    ),
    "offload.egress.privacy.linear": _detector("address"),
    "offload.egress.privacy.names": _detector("name"),
    "offload.egress.privacy.postal": _detector("address"),
    "offload.egress.privacy.redaction": _redacted,
    "offload.egress.privacy.placeholder_restoring": _restored,
    "offload.egress.privacy.normalise": _detector("ip"),
    "offload.egress.privacy.answer_context": _restored,
    "offload.egress.privacy.texts": _as_arguments,
    "offload.egress.privacy.secrets": _detector("secret"),
    "offload.documents.words": _words,
    "quantize.architectures": _pattern(
        "quantize.architectures", ("_COMPUTED", "search"), ("_PREFIX", "sub"), ("_SIGHT", "match")
    ),
    "quantize.gguf_writer": lambda text: re.sub(r"(?i)phi-?3", "phi 3", text),
    "quantize.curvature": _pattern("quantize.curvature", ("_IN_BLOCK", "fullmatch")),
    "offload.egress.privacy.entity_features": _entities,
    "offload.hybrid.lending": _pattern(
        "offload.hybrid.lending", ("_WHOLE_WORDS", "match"), ("_NUMBER", "fullmatch")
    ),
    "offload.pictures": _pattern("offload.pictures", ("_DATA_URL", "match")),
    "edge.chat.divided_answer": _pattern("edge.chat.divided_answer", ("_CITED", "findall")),
    "offload.tool_calls.pythonic": _calls,
    "offload.tool_calls.scanner": _calls,
    "offload.tool_calls.call_reader": _calls,
    "serve.auth": _pattern("serve.auth", ("_HOST", "fullmatch")),
    "serve.event_stream": _pattern("serve.event_stream", ("_CODE", "fullmatch")),
    "serve.request_schema": _pattern(
        "serve.request_schema", ("_PATH", "search"), ("_FIELD", "search")
    ),
    "serve.request_log": _pattern("serve.request_log", ("_ID", "fullmatch")),
}
OWN_TEXT = {
    "edge.tools.desk": "the name of a tool of a server that its person chose",
    "edge.assistant.page_documents": "an id of 32 characters, one class of them",
    "edge.documents.folder": "the name of a folder that its person typed",
    "backbone.files": "names of files in this machine's own folders",
    "edge.device.llama_build": "what llama.cpp and the kernel say of this machine",
    "edge.llama.fit": "what the kernel says of this machine",
    "edge.device.profile": "what the kernel says of this machine",
    "edge.device.device_pressure": "what the kernel says of this machine",
    "edge.llama.prompt": "alternatives of fixed words, those that the text was found to hold",
    "offload.egress.preview": "alternatives of fixed words, the placeholders of the text itself",
    "offload.config.settings_reading": "the names of this process's variables",
    "quantize.llama_quantizer": "what llama.cpp says of its own work",
    "quantize.plan": "a flag that its person typed",
    "serve.openapi": "the paths of this server's own routes",
    "serve.options": "a setting that its person wrote",
}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def _is_use(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == Pattern.__module__
    if not isinstance(node, ast.Call):
        return False
    named = node.func
    of_re = isinstance(named, ast.Attribute) and isinstance(named.value, ast.Name)
    return of_re and named.value.id == "re" and named.attr in _USES  # type: ignore[union-attr]


def _expressions(module: str) -> list[tuple[str, int, Reader]]:
    """Return the expressions of a module, what it holds and what stands in its calls of re, each
    with what reads by it.
    """
    read = READERS[module]
    held = vars(importlib.import_module(module)).values()
    found = [each for value in held for each in _in(value, read)]
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_use(node) and isinstance(node.args[0], ast.Constant):
            found.append((str(node.args[0].value), 0, read))
    return list(dict.fromkeys(found))


def _in(value: Any, read: Reader) -> Iterator[tuple[str, int, Reader]]:
    if isinstance(value, re.Pattern):
        told = value.pattern
        flags = value.flags & re.IGNORECASE
        yield (told.decode() if isinstance(told, bytes) else told), flags, read
    elif isinstance(value, Pattern):
        yield value.source, 0, _by_shape(value)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _in(each, read)


def _by_shape(shape: Pattern) -> Reader:
    return lambda text: list(shape.spans(without_long_words(as_ascii(text))))


def _cpu_s(read: Reader, text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


def _growth(read: Reader, of: Hostile) -> float:
    """Return the power of the length with which the time grows; 0 where it is hardly any."""
    short, long = of.grown(SHORT), of.grown(LONG)
    read(of.grown(1000))
    # What runs away shows at a length at which it can still be waited for.
    if any(_cpu_s(read, of.grown(length)) > 1.0 for length in (4000, SHORT)):
        return math.inf
    quickest = _cpu_s(read, long)
    if quickest < UNSEEN_S:
        return 0.0
    quickest = min(quickest, _cpu_s(read, long))
    before = max(1e-6, min(_cpu_s(read, short) for _ in range(3)))
    return math.log(quickest / before) / math.log(LONG / SHORT)


def test_every_module_that_searches_text_is_among_the_readers_or_has_a_reason() -> None:
    using = {name for name, tree in _modules() if any(map(_is_use, ast.walk(tree)))}
    unlisted = using - set(READERS) - set(OWN_TEXT)
    assert not unlisted, f"list {unlisted} in READERS, or in OWN_TEXT with the reason"
    assert set(OWN_TEXT) - using == set()


@pytest.mark.parametrize("module", READERS)
def test_time_grows_with_the_length_of_a_hostile_text_and_no_quicker(module: str) -> None:
    for pattern, flags, read in _expressions(module):
        for each in hostile(pattern, flags, count=NUM_HOSTILE):
            growth = _growth(read, each)
            if growth > MOST_GROWTH:  # once more: others use this machine, too
                growth = min(growth, _growth(read, each))
            assert growth <= MOST_GROWTH, f"{growth:.2f} for {each} of {pattern[:80]}"


@pytest.mark.parametrize(
    "part", ["Aa-", "A.", "a@", "a.", "1-", "(", "_", "- ", "A a ", "[(", "St 1, ", "+", "=:"]
)
def test_all_detectors_together_take_time_in_proportion(part: str) -> None:
    from offload.egress.privacy.detect import detect
    from offload.egress.privacy.findings import Rules

    rules = Rules(ip="redact", path="redact", names=("Maria Lindqvist",))
    assert _growth(lambda text: detect(text, rules), Hostile("", part, "!")) <= MOST_GROWTH


def test_what_runs_away_is_seen() -> None:
    runs_away = re.compile(r"[\w-]+@")
    texts = hostile(runs_away.pattern, 0, count=5)
    assert any(_growth(runs_away.findall, each) > MOST_GROWTH for each in texts)
