"""What is counted, under vLLM's names, and that nothing of it is content."""

from __future__ import annotations

import asyncio

import httpx

from offload.messages import Finish, Route, Usage
from serve.app import build_app
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, asked_chats, listening, near

VLLM = {
    "num_requests_running",
    "num_requests_waiting",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "time_to_first_token_seconds_count",
    "inter_token_latency_seconds_count",
    "request_time_per_output_token_seconds_count",
    "e2e_request_latency_seconds_count",
    "request_queue_time_seconds_count",
    "request_prefill_time_seconds_count",
    "request_decode_time_seconds_count",
}


def numbers(page: str) -> dict[str, float]:
    rows = [line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#")]
    return {name.removeprefix("nearfar:"): float(value) for name, value in rows}


async def test_an_answer_is_counted_once() -> None:
    route = Route(served_by="edge", reason="confident")
    usage = Usage(prompt_tokens=5, completion_tokens=3, queue_s=0.5)
    engine = ScriptedEngine(finish=Finish(reason="stop", usage=usage, route=route))
    async with near(engine) as client:
        await client.post(CHAT, json=ASK)
        found = numbers((await client.get("/metrics")).text)
    assert {name.split("{")[0] for name in found} >= VLLM
    assert (found["prompt_tokens_total"], found["generation_tokens_total"]) == (5, 3)
    assert found['request_success_total{finished_reason="stop"}'] == 1
    assert found['requests_routed_total{reason="confident",served_by="edge"}'] == 1
    assert found["time_to_first_token_seconds_count"] == 1
    assert found["inter_token_latency_seconds_count"] == 2
    assert found["request_queue_time_seconds_sum"] == 0.5
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0
    assert found[f'http_responses_total{{path="{CHAT}",status="200"}}'] == 1


async def test_a_request_waits_until_its_first_text_and_then_runs() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    silent = ScriptedEngine(hold=first, hold_before=0)
    writing = ScriptedEngine(hold=second, hold_before=1)
    for engine, waiting, running in ((silent, 1, 0), (writing, 0, 1)):
        async with listening(engine) as server, httpx.AsyncClient(timeout=60) as client:
            asking = asyncio.create_task(client.post(server.url + CHAT, json=ASK))
            await engine.until(lambda e=engine: bool(asked_chats(e)))  # type: ignore[misc]
            found = numbers((await client.get(server.url + "/metrics")).text)
            assert (found["num_requests_waiting"], found["num_requests_running"]) == (
                waiting,
                running,
            )
            (first if engine is silent else second).set()
            assert (await asking).status_code == 200


async def test_a_failed_answer_is_counted_as_an_error() -> None:
    async with near(ScriptedEngine(error=ValueError("x"), error_before=1)) as client:
        await client.post(CHAT, json=ASK)
        found = numbers((await client.get("/metrics")).text)
    assert found['request_success_total{finished_reason="error"}'] == 1
    assert found["num_requests_running"] == found["num_requests_waiting"] == 0


async def test_a_path_that_is_not_ours_is_not_kept() -> None:
    async with near(ScriptedEngine()) as client:
        await client.get("/my-secret-path")
        page = (await client.get("/metrics")).text
    assert "my-secret-path" not in page and 'path="other"' in page


class Fleet(ScriptedEngine):
    """An engine of several processes."""

    def replica_counts(self) -> dict[str, int]:
        return {"ready": 2, "starting": 1, "draining": 0}


async def test_replicas_are_counted_by_their_state() -> None:
    async with near(Fleet()) as client:
        found = numbers((await client.get("/metrics")).text)
    states = [found[f'replicas{{state="{state}"}}'] for state in ("ready", "starting", "draining")]
    assert states == [2, 1, 0]
    async with near(ScriptedEngine()) as client:
        assert "nearfar:replicas" not in (await client.get("/metrics")).text


def test_two_endpoints_of_one_process_count_apart() -> None:
    build_app(ScriptedEngine())
    build_app(ScriptedEngine())
