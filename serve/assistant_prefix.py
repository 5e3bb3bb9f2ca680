"""An answer that the client has begun already: the assistant's last turn, gone on with.

The words are vLLM's: `continue_final_message`, and `add_generation_prompt`, its opposite.
"""

from __future__ import annotations

from offload.messages import Message
from serve.http_errors import BadRequest
from serve.request_schema import ChatBody

_NAME = "continue_final_message"


def split_begun(body: ChatBody, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """Return the turns to answer, and how the answer begins. Raises BadRequest."""
    if not body.continue_final_message:
        if body.add_generation_prompt is False:
            told = f"add_generation_prompt can only be false where {_NAME} is true"
            raise BadRequest(f"{told}; leave it out", param="add_generation_prompt")
        return turns, ""
    for name in ("add_generation_prompt", "tools"):
        if getattr(body, name):
            raise BadRequest(f"{name} and {_NAME} exclude each other; leave one out", param=name)
    last = turns[-1]
    if last.role != "assistant" or last.tool_calls or len(turns) < 2:
        raise BadRequest(
            f"{_NAME} goes on with a last turn of the assistant's, behind a question; end messages "
            "with one",
            param=_NAME,
        )
    return turns[:-1], last.content
