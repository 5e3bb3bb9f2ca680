"""The load test: arrivals as asked, figures that can be checked by hand, nothing lost unseen."""

from __future__ import annotations

import itertools
import statistics

import httpx
import pytest

from cloud.bench.load import gaps, run
from cloud.bench.load_options import LoadOptions
from cloud.bench.report import most_at_once, percentile, summarize
from cloud.bench.trial import RequestTrial
from offload.errors import CloudFailed, CloudUnreachable, SettingsError
from offload.messages import Finish, Usage
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import listening

DONE = Finish(reason="stop", usage=Usage(completion_tokens=3))


def trial(
    start: float, first: float, end: float, status: int = 200, tokens: int = 3
) -> RequestTrial:
    return RequestTrial(
        status=status,
        started_s=start,
        ttft_s=first,
        e2el_s=end,
        num_tokens=tokens,
        is_whole=status == 200,
    )


def test_figures_are_those_of_a_hand_count() -> None:
    trials = [trial(0.0, 0.1, 0.5), trial(0.25, 0.3, 0.75), trial(0.5, 0.0, 0.01, 429)]
    options = LoadOptions(base_url="-", goodput=["ttft:200"])
    report = summarize(trials, options)
    assert (report["completed"], report["refused"], report["lost"]) == (2, 1, 0)
    assert report["duration_s"] == 1.0 and report["output_throughput"] == 6.0
    assert report["p50_ttft_ms"] == pytest.approx(200.0)
    assert report["p50_tpot_ms"] == pytest.approx((200 + 225) / 2)
    assert report["goodput"] == 1.0 and report["p99_refusal_ms"] == pytest.approx(10.0)
    assert most_at_once(trials) == 2


def test_percentiles_lie_between_neighbours() -> None:
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0, 50, 75, 100)] == [1, 2, 2.5, 3]


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_arrivals_have_the_rate_and_the_burstiness_asked_for(burstiness: float) -> None:
    options = LoadOptions(base_url="-", request_rate=10.0, burstiness=burstiness)
    drawn = list(itertools.islice(gaps(options), 20_000))
    mean, spread = statistics.fmean(drawn), statistics.pstdev(drawn)
    assert mean == pytest.approx(0.1, rel=0.03)
    assert (spread / mean) ** 2 == pytest.approx(1 / burstiness, rel=0.1)


async def test_a_run_keeps_within_its_bound_and_counts_every_answer() -> None:
    engine = ScriptedEngine(finish=DONE, pause_s=0.002)
    async with listening(engine) as server:
        options = LoadOptions(base_url=f"{server.url}/v1", num_prompts=20, max_concurrency=4)
        report = summarize(await run(options), options)
    assert report["completed"] == 20 and report["lost"] == 0
    assert 1 < report["max_concurrent"] <= 4 and report["total_output_tokens"] == 60


async def test_overload_is_refused_and_counted_apart() -> None:
    engine = ScriptedEngine(finish=DONE, pause_s=0.02)
    options = ServeOptions(port=0, max_running=2, max_queued=2)
    async with listening(engine, options) as server:
        wish = LoadOptions(base_url=f"{server.url}/v1", num_prompts=30)
        report = summarize(await run(wish), wish)
    assert report["refused"] >= 20 and report["lost"] == 0
    assert report["completed"] + report["refused"] == 30


async def test_an_answer_that_breaks_off_is_lost() -> None:
    engine = ScriptedEngine(finish=DONE)
    async with listening(engine) as server:
        await engine.until(lambda: bool(engine.num_said) and not engine.running)
        engine.error, engine.error_before = CloudFailed("gone; again"), 1
        options = LoadOptions(base_url=f"{server.url}/v1", num_prompts=3, num_warmups=0)
        report = summarize(await run(options), options)
    assert report["lost"] == 3


@pytest.mark.parametrize(
    "event",
    [
        "{",
        "[]",
        "null",
        '"text"',
        '{"choices": 3}',
        '{"choices": [3]}',
        '{"choices": [{"delta": "text"}]}',
        '{"usage": {"completion_tokens": "many"}}',
        '{"usage": {"completion_tokens": -1}}',
        "[" * 100_000,
    ],
)
async def test_an_event_that_is_none_is_a_lost_answer(event: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"data: {event}\n\ndata: [DONE]\n\n")

    options = LoadOptions(base_url="http://there/v1", num_prompts=3, num_warmups=0)
    trials = await run(options, httpx.MockTransport(answer))
    report = summarize(trials, options)
    assert report["lost"] == 3 and report["completed"] == 0
    assert all(trial.fault for trial in trials)


async def test_nobody_there_is_one_line() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no")

    with pytest.raises(CloudUnreachable, match="nothing answers at"):
        await run(LoadOptions(base_url="http://x/v1"), httpx.MockTransport(refuse))


@pytest.mark.parametrize(
    "wrong", [{"num_prompts": 0}, {"request_rate": float("nan")}, {"goodput": ["x:1"]}]
)
def test_a_wrong_option_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        LoadOptions(base_url="-", **wrong)  # type: ignore[arg-type]


def test_bounds_are_read_as_vllm_writes_them() -> None:
    assert LoadOptions(base_url="-", goodput=["ttft:500", "tpot:50"]).bounds_ms == {
        "ttft": 500.0,
        "tpot": 50.0,
    }
    with pytest.raises(SettingsError):
        LoadOptions(base_url="-", goodput=["ttft"])
