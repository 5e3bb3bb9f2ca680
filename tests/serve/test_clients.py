"""Other people's clients, as they are, against a real server: run them with scripts/clients."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from offload.messages import Request
from offload.pair import CLOUD_MODEL
from serve.options import ServeOptions
from serve.server import HttpServer
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import listening

VENV = Path(os.environ.get("NEARFAR_CLIENTS_VENV", "/nonexistent"))
KEY = "k" * 32
CALL = '<tool_call>{"name": "look", "arguments": {"what": "here"}}</tool_call>'

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not VENV.is_dir(), reason="scripts/clients makes the venv they need"),
]


def script(request: Request) -> list[str]:
    return [CALL] if request.tools else ["one", " two", " three"]


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    options = ServeOptions(port=0, api_keys=(KEY,))
    async with listening(ScriptedEngine(script=script), options) as made:
        yield made


async def run(
    program: str,
    *arguments: str,
    home: Path,
    timeout_s: float = 240,
    venv: Path = VENV,
    **more: str,
) -> str:
    """Run a program of a venv of clients, and return what it printed."""
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "OPENAI_API_KEY": KEY,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks GitHub for prices
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        str(venv / "bin" / program),
        *arguments,
        cwd=home,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    assert process.returncode == 0, (out + err).decode()[-4000:]
    return out.decode()


LITELLM = """
import sys, litellm
turns = [{"role": "user", "content": "a"}]
wish = dict(model="openai/scripted", api_base=sys.argv[1], messages=turns)
print(litellm.completion(**wish).choices[0].message.content)
stream = litellm.completion(**wish, stream=True, stream_options={"include_usage": True})
print("".join(c.choices[0].delta.content or "" for c in stream if c.choices))
tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
print(litellm.completion(**wish, tools=tools).choices[0].message.tool_calls[0].function.arguments)
"""


async def test_litellm(server: HttpServer, tmp_path: Path) -> None:
    told = await run("python", "-c", LITELLM, f"{server.url}/v1", home=tmp_path)
    assert told.split("\n")[:3] == ["one two three", "one two three", '{"what": "here"}']


LANGCHAIN = """
import sys
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

@tool
def look(what: str) -> str:
    "Look something up."
    return what

chat = ChatOpenAI(base_url=sys.argv[1], model="scripted", temperature=0.5)
print(chat.invoke("a").content)
print("".join(chunk.content for chunk in chat.stream("a")))
print(chat.bind_tools([look]).invoke("a").tool_calls[0]["args"])
whole = None
for chunk in chat.bind_tools([look]).stream("a"):
    whole = chunk if whole is None else whole + chunk
print(whole.tool_calls[0]["args"])
"""


async def test_langchain(server: HttpServer, tmp_path: Path) -> None:
    told = await run("python", "-c", LANGCHAIN, f"{server.url}/v1", home=tmp_path)
    assert told.split("\n")[:4] == ["one two three"] * 2 + ["{'what': 'here'}"] * 2


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
async def test_llm(server: HttpServer, tmp_path: Path, flags: list[str]) -> None:
    models = (
        "- model_id: near\n  model_name: scripted\n  api_key_name: near\n"
        f"  api_base: {server.url}/v1\n"
    )
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    told = await run(
        "llm",
        "-m",
        "near",
        "hello",
        "--key",
        KEY,
        *flags,
        home=tmp_path,
        LLM_USER_PATH=str(tmp_path),
    )
    assert told.strip() == "one two three"


INSTRUCTOR = """
import sys
from typing import Literal
import instructor
from openai import OpenAI
from pydantic import BaseModel

class Choice(BaseModel):
    colour: Literal["red", "green"]
    number: Literal[1, 2, 3]

for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(base_url=sys.argv[1]), mode=mode)
    turns = [{"role": "user", "content": "Choose a colour."}]
    found = client.create(
        model="scripted", messages=turns, response_model=Choice, max_retries=1
    )
    print(type(found).__name__, found.colour, found.number)
"""


def choose(request: Request) -> list[str]:
    chosen = '{"colour": "red", "number": 2}'
    if not request.tools:
        return [chosen]
    assert request.sampling.json_schema is not None, "the call is forced"
    return [f'{{"name": "Choice", "arguments": {chosen}}}']


async def test_instructor(tmp_path: Path) -> None:
    async with listening(ScriptedEngine(script=choose)) as server:
        url = f"{server.url}/v1"
        told = await run("python", "-c", INSTRUCTOR, url, home=tmp_path, venv=VENV / "instructor")
    assert told.splitlines() == ["Choice red 2"] * 2


TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/sums.jsonl}}
test_split: test
output_type: KIND
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: ["{{answer}}", "{{wrong}}"]
metric_list: [{metric: METRIC}]
"""


async def evaluate(
    kind: str, model: str, path: str, home: Path, url: str, *, token_ids: bool
) -> dict[str, float]:
    rows = [
        {"question": "What is the capital of France?", "answer": " Paris", "wrong": " Berlin"},
        {"question": "What is the capital of Italy?", "answer": " Rome", "wrong": " Madrid"},
    ]
    (home / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {"multiple_choice": "acc", "loglikelihood_rolling": "word_perplexity"}
    metric = metrics.get(kind, "exact_match")
    task = TASK.replace("FOLDER", str(home)).replace("KIND", kind).replace("METRIC", metric)
    if kind != "multiple_choice":
        task = "\n".join(line for line in task.split("\n") if "choice" not in line)
    (home / "sums.yaml").write_text(task)
    options = (
        f"base_url={url}/v1/{path},model=nearfar-cloud,num_concurrent=1,"
        f"tokenized_requests={token_ids}"
    )
    if model == "local-completions":
        options += f",tokenizer_backend=huggingface,tokenizer={CLOUD_MODEL}"
    wish = ["--model", model, "--model_args", options, "--tasks", "sums"]
    wish += ["--include_path", str(home), "--output_path", str(home / "out")]
    if model == "local-chat-completions":
        wish += ["--apply_chat_template", "--gen_kwargs", "max_gen_toks=32"]
    await run("lm_eval", *wish, home=home, timeout_s=240)
    (found,) = (home / "out").rglob("results*.json")
    return dict(json.loads(found.read_text())["results"]["sums"])


@pytest.mark.parametrize(
    ("kind", "model", "path", "token_ids"),
    [
        ("multiple_choice", "local-completions", "completions", False),
        ("multiple_choice", "local-completions", "completions", True),
        ("generate_until", "local-completions", "completions", True),
        ("generate_until", "local-chat-completions", "chat/completions", False),
    ],
)
async def test_lm_eval(kind: str, model: str, path: str, token_ids: bool, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the cloud engine needs torch")
    from cloud.engine.engine import CloudEngine

    engine = CloudEngine(CLOUD_MODEL)
    try:
        async with listening(engine) as server:
            results = await evaluate(kind, model, path, tmp_path, server.url, token_ids=token_ids)
    finally:
        await engine.aclose()
    score = "acc,none" if kind == "multiple_choice" else "exact_match,none"
    assert 0 <= results[score] <= 1


async def test_lm_eval_finds_a_text_as_likely_as_its_token_ids(tmp_path: Path) -> None:
    """Its texts begin with a control token, which is one in either form."""
    pytest.importorskip("torch", reason="the cloud engine needs torch")
    from cloud.engine.engine import CloudEngine

    engine = CloudEngine(CLOUD_MODEL)
    found = []
    try:
        async with listening(engine) as server:
            for ids in (False, True):
                (home := tmp_path / str(ids)).mkdir()
                found.append(
                    await evaluate(
                        "loglikelihood_rolling",
                        "local-completions",
                        "completions",
                        home,
                        server.url,
                        token_ids=ids,
                    )
                )
    finally:
        await engine.aclose()
    as_text, as_ids = (each["word_perplexity,none"] for each in found)
    assert as_text == pytest.approx(as_ids, rel=1e-4)


async def test_schemathesis_finds_no_5xx(server: HttpServer, tmp_path: Path) -> None:
    await run(
        "schemathesis",
        "run",
        f"{server.url}/openapi.json",
        "--checks=not_a_server_error",
        "--phases=examples,coverage,fuzzing",
        "--max-examples=40",
        "--seed=1",
        "--exclude-path=/ready",
        f"--header=Authorization: Bearer {KEY}",
        home=tmp_path,
        timeout_s=240,
    )
