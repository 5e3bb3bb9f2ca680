"""What other rooms may tell through the page is told in Chinese, numbers and names filled in."""

from __future__ import annotations

import re

import pytest

from backbone.errors import CheckpointError, MissingExtra
from edge.assistant.language import chinese, told_of
from edge.llama.fit import DoesNotFit
from offload.errors import CloudUnreachable, ContextLengthError, SettingsError
from tests.test_messages import MESSAGES

# Where the messages come from that cannot reach a page, and why not. What remains is translated.
NEVER = {
    "what no page asks for: schemas, tools, ids of tokens, biases, texts to embed": (
        "backbone/sampler_factory.py",
        "backbone/schema.py",
        "backbone/schema_trial.py",
        "backbone/tensor_shard.py",
        "edge/llama/embedder.py",
        "edge/llama/kv_losses.py",
        "edge/llama/sampler.py",
        "engine/torch/prompt.py",
        "offload/link/wire.py",
        "offload/messages.py",
        "offload/egress/door.py",
        "offload/chat_turns.py",
    ),
    "the cloud's side, and keys and invites, which commands make": (
        "offload/link/running_requests.py",
        "offload/link/message_handler.py",
        "offload/link/access.py",
        "offload/link/invit",
        "offload/link/keys.py",
        "offload/link/health.py",
        "offload/link/quota.py",
        "offload/link/server.py",
        "offload/link/sockets.py",
        "offload/link/usage_store.py",
        "offload/worker.py",
    ),
    "settings and variables are read before there is a page": (
        "offload/policy/serving/controller.py",
        "offload/egress/privacy/findings.py",
        "offload/config/settings.py",
        "offload/config/settings_reading.py",
        "offload/config/settings_sources.py",
        "offload/policy/serving/rule.py",
    ),
    "fitting, judging and reading the books are commands": (
        "offload/egress/ledger/",
        "offload/aims.py",
        "offload/commands/",
        "offload/policy/",
        "edge/doctor/findings.py",
        "edge/doctor/tune",
        "edge/chat/ask.py",
        "edge/chat/question_text.py",
        "edge/documents/cli.py",
        "edge/bench/bench.py",
        "edge/bench/compare.py",
        "edge/chat/modelfile.py",
        "edge/bench/calibrate.py",
        "edge/chat/chat",
        "edge/chat/ask_options.py",
        "edge/chat/history_commands.py",
        "edge/bench/flags.py",
        "edge/models/packaged_models.py",
        "edge/models/download.py",
        "edge/models/model_contents.py",
        "edge/models/model_contents.py",
        "edge/models/hub.py",
        "edge/models/cli.py",
        "edge/models/pull.py",
        "edge/bench/timing.py",
        "edge/bench/hybrid_trial.py",
        "edge/cli.py",
        "edge/bench/cli.py",
        "edge/models/local_models.py",
        "edge/models/model_files.py",
        "edge/models/model_files.py",
    ),
    "told at the terminal, before there is a page": (
        "backbone/files.py",
        "edge/assistant/server.py",
        "edge/assistant/server.py",
    ),
    "built of two parts, or of a command: tested in test_desk_language.py": (
        "edge/conversations/store.py",
        "edge/models/local_models.py",
    ),
}
EXEMPT = tuple(path for paths in NEVER.values() for path in paths)
VALUES = ("7", "/home/me/model.gguf", "q8_0", "tcp://127.0.0.1:7070")


def is_chinese(text: str | None) -> bool:
    return text is not None and re.search("[\u4e00-\u9fff]", text) is not None


def reachable() -> dict[str, str]:
    rooms = ("backbone/", "edge/", "offload/")
    return {
        at: text
        for at, text in MESSAGES.items()
        if at.startswith(rooms) and not at.startswith(EXEMPT)
    }


@pytest.mark.parametrize("value", VALUES)
def test_every_message_that_can_reach_the_page_has_its_sentence(value: str) -> None:
    found = reachable()
    assert len(found) > 120
    said = {at: text.replace("{}", value) for at, text in found.items()}
    assert {at: text for at, text in said.items() if not is_chinese(chinese(text))} == {}


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ContextLengthError(4100, 2048), ("4100", "2048")),
        (MissingExtra("torch", "small-gpu"), ("torch", "nearfar[small-gpu]")),
        (CheckpointError("/m/a.gguf is cut off after 12 bytes; fetch it again"), ("/m/a.gguf",)),
        (DoesNotFit("qwen has no room for 4096 tokens here; set max_model_len to 512 or less"), ()),
        (SettingsError("edge.window is 7; it must be -1, 0, or from 16 to 99"), ("7", "16")),
        (
            CloudUnreachable(
                "nothing answers at tcp://10.0.0.1:7070 within 2 s; "
                "start it with `nearfar cloud serve`, or correct cloud.url"
            ),
            ("tcp://10.0.0.1:7070", "2"),
        ),
        (
            SettingsError(
                "/h/config.toml cannot be changed: the disk of /h is full; "
                "free some, or set NEARFAR_HOME to another folder"
            ),
            ("/h/config.toml", "NEARFAR_HOME"),
        ),
    ],
)
def test_an_error_keeps_its_names_and_numbers_and_no_english(
    error: Exception, kept: tuple[str, ...]
) -> None:
    told = told_of(error, in_chinese=True)  # type: ignore[arg-type]
    assert is_chinese(told) and all(each in told for each in kept)
    assert not re.search(r"\b(the|is|or|set|fetch|nothing|answers)\b", told), told


def test_words_may_change_places() -> None:
    told = chinese(
        "kv_cache_dtype q4_0 cannot slide with heads of 80 numbers; "
        "choose auto or f16/q8_0, or set window to 0"
    )
    assert told is not None and told.index("80") < told.index("q4_0") < told.index("q8_0")
