"""Ask the embedded near model one question and print its answer as it comes."""

from __future__ import annotations

import asyncio
import sys

from nearfar import Delta, Message, Request, open_near


async def main(question: str) -> None:
    engine = open_near()
    request = Request(messages=(Message(role="user", content=question),))
    async for item in engine.generate(request):
        if isinstance(item, Delta):
            print(item.text, end="", flush=True)
        else:
            print(f"\n{item.usage.completion_tokens} tokens in {item.usage.decode_s:.3f} s")
    await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is the capital of France?"))
