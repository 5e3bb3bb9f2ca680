"""The Ray application: its arguments, its policy, and a real local Ray where there is one."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import cloud.ray_app
from cloud.fleet.autoscale import SCALING_POLICIES
from cloud.ray_app import (
    autoscaling_config,
    build_app,
    checked_args,
    latency_policy,
    predictive_policy,
    queue_policy,
    utilization_policy,
)
from offload.errors import SettingsError
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "a"}]}


def test_the_example_has_arguments_that_there_are() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config = yaml.safe_load((ROOT / "examples" / "ray_serve.yaml").read_text(encoding="utf-8"))
    (application,) = config["applications"]
    assert application["import_path"] == f"{build_app.__module__}:build_app"
    wish = checked_args(application["args"])
    assert autoscaling_config(wish)["policy"]["policy_function"] == "cloud.ray_app:queue_policy"


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(SettingsError, match="min_replica'"):
        checked_args({"min_replica": 1})


@pytest.mark.parametrize("name", SCALING_POLICIES)
def test_ray_is_told_a_function_that_there_is(name: str) -> None:
    config = autoscaling_config(checked_args({"policy": name}))
    module, _, function = config["policy"]["policy_function"].partition(":")
    assert module == cloud.ray_app.__name__ and callable(getattr(cloud.ray_app, function))


@pytest.mark.parametrize("word", ["queues", "checked_args", "_decide"])
def test_another_word_for_a_policy_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="known are queue, utilization, latency, predictive"):
        checked_args({"policy": word})


def context_of(**told: object) -> SimpleNamespace:
    """Return what Ray hands to a policy, as far as ours reads it."""
    config = SimpleNamespace(min_replicas=1, max_replicas=3, target_ongoing_requests=2.0)
    return SimpleNamespace(
        **{
            "config": config,
            "policy_state": None,
            "current_time": 1.0,
            "current_num_replicas": 1,
            "total_num_requests": 5.0,
            "aggregated_metrics": {},
        }
        | told
    )


def test_use_and_latency_are_those_that_the_replicas_tell() -> None:
    told = {"utilization": {"a": 0.9, "b": 0.9}, "latency_s": {"a": 5.0, "b": 0.0}}
    busy = context_of(current_num_replicas=2, aggregated_metrics=told)
    assert utilization_policy(busy)[0] == 3
    assert latency_policy(busy)[0] == 3
    told = {"utilization": {"a": 0.1, "b": 0.1}, "latency_s": {"a": 0.1, "b": 0.1}}
    idle = context_of(current_num_replicas=2, aggregated_metrics=told)
    assert utilization_policy(idle)[0] == 1
    assert latency_policy(idle)[0] == 1


def test_replicas_that_start_are_waited_for_before_more_are() -> None:
    told = {"utilization": {"a": 1.0}, "latency_s": {"a": 5.0}}
    starting = context_of(current_num_replicas=2, aggregated_metrics=told)
    assert utilization_policy(starting)[0] == 2
    assert latency_policy(starting)[0] == 2


def test_the_policy_is_ours_within_rays_bounds() -> None:
    context = context_of()
    assert queue_policy(context)[0] == 3
    context.total_num_requests = 0.0
    assert queue_policy(context)[0] == 1


def test_a_policy_remembers_a_day_in_measures_a_minute_apart() -> None:
    context = context_of(policy_state={})
    context.config.max_replicas = 9

    def at(second: float, ongoing: float = 0.0) -> int:
        context.current_time, context.total_num_requests = second, ongoing
        wished, context.policy_state = predictive_policy(context)
        return wished

    for tenth in range(1, 11):
        at(1000.0 + tenth / 10, 8.0)
    assert len(context.policy_state["seen"]) == 1
    assert at(1060.2, 8.0) == 4 and len(context.policy_state["seen"]) == 2
    assert [at(80_000.0 + 60 * minute) for minute in range(20)][-1] == 1
    assert at(1000.0 + 86_400 - 60) == 4  # what this time brought yesterday
    at(1000.0 + 95_000)
    assert context.policy_state["seen"][0]["at_s"] == 80_000.0
    json.dumps(context.policy_state)


@pytest.fixture
def ray_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    ray = pytest.importorskip("ray", reason="pip install nearfar[ray] brings it")
    pytest.importorskip("ray.serve")
    from ray import serve

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        wish = {
            "engine": "tests.cloud.fleet.scripted_replica:open_scripted",
            "arguments": {"pause_s": 0.2},
            "max_replicas": 2,
            "max_num_seqs": 64,
            "num_cpus": 0.1,
            "upscale_delay_s": 1,
            "downscale_delay_s": 2,
            "policy": "queue",
        }
        serve.run(build_app(wish), name="nearfar", route_prefix="/")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(url: str) -> str:
    response = httpx.post(f"{url}/chat/completions", json=CHAT, timeout=60)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"].split()[0])


def replicas() -> int:
    from ray import serve

    deployment = serve.status().applications["nearfar"].deployments["nearfar"]
    return int(deployment.replica_states.get("RUNNING", 0))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_ray_streams_scales_and_survives_a_killed_replica(ray_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with httpx.stream(
        "POST", f"{ray_url}/chat/completions", json=CHAT | {"stream": True}, timeout=60
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and replicas() == 1
    busy = True

    asked: set[str] = set()

    def keep_asking(_: int) -> None:
        while busy:
            asked.add(ask(ray_url))

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(8)]
        try:
            wait_until(lambda: len(asked) == 2)
            assert replicas() == 2
        finally:
            busy = False
        for each in asking:
            each.result()
    wait_until(lambda: replicas() == 1)
    victim = ask(ray_url)
    os.kill(int(victim), signal.SIGKILL)

    def is_another() -> bool:
        try:
            return ask(ray_url) != victim
        except (AssertionError, httpx.HTTPError):
            return False

    wait_until(is_another)
