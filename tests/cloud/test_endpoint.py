"""Two processes: a cloud behind CURVE, and questions that reach it or do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from offload.config.settings_reading import load
from offload.link.local_server import for_another_machine, for_this_machine
from offload.pair import CLOUD_MODEL
from tests.cloud.commands import ROOT, ask, nearfar

HARD = "What is 4821 + 3977?"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path]]:
    """Serve the embedded cloud model; yield what it announced and its home."""
    home = tmp_path_factory.mktemp("cloud-home")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "nearfar",
            "cloud",
            "serve",
            "--bind",
            "tcp://127.0.0.1:*",
            "--http",
            "127.0.0.1:0",
            "--json",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), home
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, "a stopped cloud ends well"
        process.stdout.close()


def test_a_hard_question_goes_far_and_its_bytes_are_counted(
    cloud: tuple[dict[str, str], Path],
) -> None:
    document = ask(cloud, HARD, NEARFAR_POLICY_MIN_LOGPROB="-0.01")
    assert document["route"]["served_by"] == "cloud"
    assert document["route"]["reason"] == "unsure"
    assert document["usage"]["bytes_sent"] > len(HARD)


def test_an_easy_question_stays_near(cloud: tuple[dict[str, str], Path]) -> None:
    document = ask(cloud, "What is the capital of France?")
    assert document["answer"] == "Paris"
    assert document["route"]["served_by"] == "edge"
    assert document["route"]["reason"] == "confident"


@pytest.mark.parametrize("flag", ["--local-only", "--offline"])
def test_nothing_leaves_that_must_not(cloud: tuple[dict[str, str], Path], flag: str) -> None:
    document = ask(cloud, HARD, flag, NEARFAR_POLICY_MIN_LOGPROB="0")
    assert document["route"]["served_by"] == "edge"
    assert "bytes_sent" not in document["usage"]


def test_a_device_the_cloud_does_not_know_is_answered_near(
    cloud: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    told, _ = cloud
    stranger = {
        "NEARFAR_HOME": str(tmp_path),
        "NEARFAR_CLOUD_SERVER_KEY": told["server_key"],
        "NEARFAR_CLOUD_URL": told["endpoint"],
    }
    done = nearfar("ask", HARD, "--far", **stranger)
    assert done.returncode == 1 and done.stdout.strip()
    lines = done.stderr.splitlines()
    assert "answered near" in done.stderr and all(line.startswith("nearfar: ") for line in lines)
    assert nearfar("link", "ping", **stranger).returncode == 1


def test_the_link_is_measured(cloud: tuple[dict[str, str], Path]) -> None:
    told, home = cloud
    done = nearfar(
        "link", "ping", "--json", NEARFAR_HOME=str(home), NEARFAR_CLOUD_URL=told["endpoint"]
    )
    (found,) = json.loads(done.stdout)["clouds"]
    assert found["card"]["name"] == "nearfar-cloud" and found["error"] is None
    measured = found["measure"]
    assert 0 < measured["rtt_p50_s"] <= measured["rtt_p99_s"] < 2
    assert measured["loss"] == 0 and measured["bytes_per_s"] > 0
    assert abs(measured["clock_offset_s"]) < 1 and found["num_waiting"] == 0


def test_of_several_clouds_one_that_is_gone_is_told_and_passed_over(
    cloud: tuple[dict[str, str], Path],
) -> None:
    told, home = cloud
    gone = "tcp://127.0.0.1:9"
    several = {
        "NEARFAR_HOME": str(home),
        "NEARFAR_CLOUD_URL": f"{gone},{told['endpoint']}",
        "NEARFAR_CLOUD_CONNECT_TIMEOUT_S": "0.3",
    }
    done = nearfar("link", "ping", "--pings", "3", **several)
    assert done.returncode == 0, done.stderr
    assert f"{gone}: nothing answers" in done.stdout and "round trip" in done.stdout
    done = nearfar("ask", HARD, "--far", "--json", **several)
    assert json.loads(done.stdout)["route"]["served_by"] == "cloud"


def chat(url: str, **more: object) -> dict:  # type: ignore[type-arg]
    turns = [{"role": "user", "content": HARD}]
    body = {"model": "nearfar-cloud", "messages": turns, "max_tokens": 60, **more}
    response = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_openai_clients_are_served_from_the_same_engine(
    cloud: tuple[dict[str, str], Path],
) -> None:
    told, _ = cloud
    answer = chat(told["url"])
    assert "8798" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["route"]["served_by"] == "cloud"
    again = chat(told["url"], logprobs=True, top_logprobs=2, max_tokens=1)
    (token,) = again["choices"][0]["logprobs"]["content"]
    assert len(token["top_logprobs"]) == 2


def test_a_prompt_is_scored_for_evaluations(cloud: tuple[dict[str, str], Path]) -> None:
    told, _ = cloud
    body = {"model": "nearfar-cloud", "prompt": "one two", "max_tokens": 1}
    wish = {"echo": True, "logprobs": 1}
    response = httpx.post(f"{told['url']}/completions", json=body | wish, timeout=60)
    assert response.status_code == 200, response.text
    scored = response.json()["choices"][0]["logprobs"]
    assert scored["token_logprobs"][0] is None and scored["token_logprobs"][1] < 0
    assert "".join(scored["tokens"]).startswith("one two")


def test_a_link_stands_in_front_of_another_server(
    cloud: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    told, _ = cloud
    front = [sys.executable, "-m", "nearfar", "cloud", "serve", "--upstream", told["url"]]
    process = subprocess.Popen(
        [*front, "--bind", "tcp://127.0.0.1:*", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(tmp_path)},
    )
    assert process.stdout is not None
    try:
        document = ask((json.loads(process.stdout.readline()), tmp_path), HARD, "--far")
        assert document["route"]["served_by"] == "cloud" and "8798" in document["answer"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicas", "model-pool"])
def test_several_engines_stand_behind_one_endpoint(kind: str, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "nearfar-cloud").symlink_to(CLOUD_MODEL)
    flags = ["--replicas", "2"] if kind == "replicas" else ["--model-pool", str(tmp_path / "pool")]
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", *flags, "--json"]
    process = subprocess.Popen(
        [*command, "--bind", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        answers = [chat(told["url"])["choices"][0]["message"]["content"] for _ in range(3)]
        assert all("8798" in answer for answer in answers)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def test_the_far_side_may_be_an_openai_server(cloud: tuple[dict[str, str], Path]) -> None:
    told, home = cloud
    document = ask((told, home), HARD, "--far", NEARFAR_CLOUD_URL=told["url"])
    assert document["route"]["served_by"] == "cloud" and "8798" in document["answer"]


def test_an_address_in_use_is_one_line(cloud: tuple[dict[str, str], Path]) -> None:
    told, home = cloud
    done = nearfar("cloud", "serve", "--bind", told["endpoint"], NEARFAR_HOME=str(home))
    assert done.returncode == 1 and "choose another" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_invite_sets_up_another_device_once(
    cloud: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    told, home = cloud
    done = nearfar("link", "invite", "laptop", told["endpoint"], "--json", NEARFAR_HOME=str(home))
    line = json.loads(done.stdout)["invite"]
    settings = tmp_path / "config" / "config.toml"
    settings.parent.mkdir()
    settings.write_text("# mine\n[policy]\noffline = false\n")
    done = nearfar("link", "join", line, NEARFAR_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert settings.read_text().startswith("# mine\n[policy]\noffline = false\n")
    done = nearfar("ask", HARD, "--far", "--json", NEARFAR_HOME=str(tmp_path))
    assert json.loads(done.stdout)["route"]["served_by"] == "cloud"
    again = nearfar("link", "join", line, NEARFAR_HOME=str(tmp_path))
    assert again.returncode == 1 and "invite" in again.stderr and again.stderr.count("\n") == 1
    listed = nearfar("link", "list", "--json", NEARFAR_HOME=str(home))
    assert "laptop" in listed.stdout
    assert nearfar("link", "revoke", "laptop", NEARFAR_HOME=str(home)).returncode == 0
    assert nearfar("link", "ping", NEARFAR_HOME=str(tmp_path)).returncode == 1


def test_a_second_cloud_may_be_joined_beside_the_first(
    cloud: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    told, home = cloud
    done = nearfar("link", "invite", "pi", told["endpoint"], "--json", NEARFAR_HOME=str(home))
    settings = tmp_path / "config" / "config.toml"
    settings.parent.mkdir()
    settings.write_text(f'[cloud]\nurl = "tcp://127.0.0.1:9"\nserver_key = "{"k" * 40}"\n')
    line = json.loads(done.stdout)["invite"]
    done = nearfar("link", "join", line, "--add", NEARFAR_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert load(settings, {}).cloud.clouds == (
        ("tcp://127.0.0.1:9", "k" * 40),
        (told["endpoint"], told["server_key"]),
    )


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp://127.0.0.1:7070", "--bind tcp://0.0.0.0:7070"),
        ("tcp://[::1]:7070", "--bind tcp://0.0.0.0:7070"),
        ("tcp://0.0.0.0:7171", "nearfar link invite NAME tcp://THIS_HOST:7171"),
        ("tcp://10.0.0.5:7070", "nearfar link invite NAME tcp://THIS_HOST:7070"),
    ],
)
def test_another_machine_is_invited_only_where_it_can_reach(endpoint: str, words: str) -> None:
    assert words in for_another_machine(endpoint)


def test_this_machine_is_told_an_address_whose_key_it_knows() -> None:
    assert for_this_machine("tcp://0.0.0.0:7070") == "tcp://127.0.0.1:7070"
    assert for_this_machine("tcp://192.0.2.1:7070") == "tcp://192.0.2.1:7070"
