"""Ask a running `nearfar serve` with the openai package, and see who answered.

nearfar serve &
python examples/openai_client.py "What is the capital of France?"
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI


def main(question: str) -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "any word"),
    )
    model = client.models.list().data[0].id
    answer = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": question}], temperature=0
    )
    print(answer.parse().choices[0].message.content)
    nearfar_headers = {
        name: value for name, value in answer.headers.items() if name.startswith("x-nearfar")
    }
    print(nearfar_headers)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What is the capital of France?")
