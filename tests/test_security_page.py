"""Every number of docs/security.md is the code's own: none is told that nothing holds."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from backbone import file_reading
from backbone.errors import MAX_TENSORS
from backbone.files import PRIVATE
from backbone.http_connections import MOST_CONNECTIONS
from backbone.process_limits import WANTED_FILES
from cloud.endpoint import END_WITHIN_S as CLOUD_ENDS_WITHIN_S
from cloud.fleet.replica import ReplicaOptions
from edge.assistant import server as assistant
from engine.torch.options import EngineOptions
from offload import answer_bounds
from offload.link import wire
from offload.link.running_requests import AnswerLimits
from offload.messages import MAX_MESSAGES, MAX_PROMPT_TOKENS, MAX_TOOL_CALLS, MAX_TOOLS
from offload.prompt_length import MAX_CHARS_PER_TOKEN
from offload.upstream import listening
from offload.upstream.client import Upstream
from serve.cli import END_WITHIN_S as SERVE_ENDS_WITHIN_S
from serve.options import ServeOptions
from serve.request_schema import MAX_CONTAINERS, MAX_EMBEDDED
from tests.attack.started import MOST_WAIT_S

ROOT = Path(__file__).parents[1]
MIB, KIB = 2**20, 2**10


def _benchmark(name: str) -> object:
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def claims() -> list[str]:
    """Return every phrase of the page that holds a number, as the code has it now."""
    serve, link, replica = ServeOptions(), AnswerLimits(), ReplicaOptions()
    silence_s = inspect.signature(Upstream).parameters["silence_timeout_s"].default
    assert listening.MAX_LINE_BYTES == listening.MAX_BODY_BYTES, "the page tells one for both"
    fair, _ = _benchmark("fair")  # type: ignore[misc]
    aborts = _benchmark("aborts")
    held = aborts["anonymous_kb"]  # type: ignore[index]
    assert assistant.END_WITHIN_S == SERVE_ENDS_WITHIN_S, "the page tells one bound for both"
    return [
        f"{serve.max_body_bytes / MIB:g} MiB, {MAX_CONTAINERS:,} brackets, "
        f"{MAX_MESSAGES:,} messages, {MAX_TOOLS} tools; "
        f"{serve.body_timeout_s:g} s for its head and {serve.body_timeout_s:g} s",
        f"{wire.MAX_MESSAGE_BYTES / MIB:g} MiB; {MAX_MESSAGES:,} messages, {MAX_TOOLS} tools, "
        f"{MAX_PROMPT_TOKENS:,} token ids; {wire.MAX_FREE_FORM_BYTES / KIB:g} KiB of schema",
        f"{answer_bounds.MAX_TOKEN_CHARS} characters for each of those asked for and "
        f"{answer_bounds.SPARE_CHARS:,} more, begun anew {answer_bounds.MAX_WITHDRAWN} times",
        f"{silence_s:g} s between two pieces",
        f"{listening.MAX_LINE_BYTES / MIB:g} MiB for a line or a list of models, "
        f"{listening.MAX_STREAM_BYTES / MIB:g} MiB in all, {MAX_TOOL_CALLS} calls",
        f"heard for {replica.deaf_after_s:g} s, or has said nothing for "
        f"{replica.stuck_after_s:g} s",
        f"{file_reading.MAX_TABLE_BYTES / MIB:g} MiB of rows, "
        f"{file_reading.MAX_TEXT_BYTES / MIB:g} MiB of text or of a policy, "
        f"{file_reading.MAX_CONFIG_BYTES / MIB:g} MiB of what stands",
        f"{MAX_TENSORS:,} tensors",
        f"{MAX_EMBEDDED:,}; who embeds",
        f"{MAX_CHARS_PER_TOKEN} characters for each token",
        f"{MOST_CONNECTIONS:,} at most; one address",
        f"{WANTED_FILES:,} at most",
        f"{serve.max_queued} more of each key",
        f"{link.max_streams_per_device:,} of one device",
        f"a step on a CPU has {EngineOptions(device='cpu').step_tokens()} tokens at most",
        f"within {fair['worst_wait_in_service_times']:.1f} of its own",
        f"{fair['num_requests_of_the_other']:,} long requests",
        f"{1.024e-3 * (held[1] - held[0]):.1f} MB while everything",
        f"{aborts['bytes_per_abort_of_the_last_round']} bytes an aborted stream",  # type: ignore[index]
        f"{SERVE_ENDS_WITHIN_S:g} s for `serve` and the assistant",
        f"{CLOUD_ENDS_WITHIN_S:g} s for `cloud serve`",
        f"mode {PRIVATE:04o} in folders of 0700",
        f"Beyond {link.max_silent_connections} connections",
        f"within {MOST_WAIT_S:g} s meanwhile",
    ]


def test_every_number_of_the_page_is_the_codes_own() -> None:
    page = " ".join((ROOT / "docs/security.md").read_text(encoding="utf-8").split())
    missing = [each for each in claims() if each not in page]
    assert not missing
    for each in claims():
        page = page.replace(each, "")
    assert not re.findall(r"[^.\n]{0,30}\d[^.\n]{0,30}", page), "name what holds this number"
