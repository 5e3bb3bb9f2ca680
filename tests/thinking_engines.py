"""What every engine must do behind a template that opens the thoughts itself."""

from __future__ import annotations

import json
from pathlib import Path

from offload.engine import Engine
from offload.messages import Delta, Message, Request, Sampling
from tests.tiny_checkpoints import write_checkpoint

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{{ '<think></think>' if enable_thinking is false else '<think>\\n' }}"
)


def write_thinker(folder: Path) -> Path:
    """Write a tiny checkpoint whose template opens the thoughts, unless they are switched off."""
    write_checkpoint(folder, "qwen3-tied")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": TEMPLATE})
    )
    return folder


async def say_the_tag_that_the_template_wrote(engine: Engine) -> None:
    """Check that an answer begins with it, and does not where the template closed it again."""
    turn = (Message(role="user", content="what is near"),)
    for options, said in ((None, "<think>\n"), ({"enable_thinking": False}, "")):
        request = Request(messages=turn, sampling=Sampling(max_tokens=4), template_options=options)
        items = [item async for item in engine.generate(request)]
        deltas = [item for item in items if isinstance(item, Delta)]
        text = "".join(delta.text for delta in deltas)
        assert text.startswith("<think>") == bool(said) and text.startswith(said)
        assert [delta.index for delta in deltas if delta.token_ids] == [0, 1, 2, 3]
