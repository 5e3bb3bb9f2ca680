"""Two processes: a cloud behind CURVE, and questions that reach it or do not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cloud.endpoint import _for_another, _for_this
from offload.errors import CloudBusy
from offload.link.client import CloudLink
from offload.link.local import device_keys, used_file
from offload.link.used import UsedFile
from offload.messages import Finish, Request, Sampling
from offload.pair import CLOUD_MODEL
from offload.settings_reading import load

ROOT = Path(__file__).parents[2]
HARD = "What is 4821 + 3977?"


def nearfar(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nearfar", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


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


def ask(cloud: tuple[dict[str, str], Path], *arguments: str, **more: str) -> dict:  # type: ignore[type-arg]
    told, home = cloud
    environment = {"NEARFAR_HOME": str(home), "NEARFAR_CLOUD_URL": told["endpoint"], **more}
    done = nearfar("ask", *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    done = nearfar("ask", HARD, "--cloud", **stranger)
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
    done = nearfar("ask", HARD, "--cloud", "--json", **several)
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
        document = ask((json.loads(process.stdout.readline()), tmp_path), HARD, "--cloud")
        assert document["route"]["served_by"] == "cloud" and "8798" in document["answer"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicas", "shelf"])
def test_several_engines_stand_behind_one_endpoint(kind: str, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "nearfar-cloud").symlink_to(CLOUD_MODEL)
    flags = ["--replicas", "2"] if kind == "replicas" else ["--shelf", str(tmp_path / "shelf")]
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
    document = ask((told, home), HARD, "--cloud", NEARFAR_CLOUD_URL=told["url"])
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
    done = nearfar("ask", HARD, "--cloud", "--json", NEARFAR_HOME=str(tmp_path))
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


@pytest.fixture
def own_cloud(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], CloudLink, Path]]:
    """A cloud of this test alone, which it may stop."""
    command = "nearfar cloud serve --bind tcp://127.0.0.1:* --json"
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "NEARFAR_HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "NEARFAR_QUOTA_REQUESTS_PER_DAY": "100000",
        },
    )
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    keys = device_keys(tmp_path / "data" / "keys")
    yield (
        process,
        CloudLink(told["endpoint"], server_key=told["server_key"], device_keys=keys, patience_s=0),
        tmp_path,
    )
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_signal_lets_an_answer_end_and_takes_no_other(
    own_cloud: tuple[subprocess.Popen[str], CloudLink, Path],
) -> None:
    process, link, home = own_cloud
    async with contextlib.aclosing(link):
        request = Request(prompt="Count:", sampling=Sampling(max_tokens=200))
        items = link.generate(request)
        await anext(items)  # type: ignore[arg-type]
        process.send_signal(signal.SIGTERM)
        with pytest.raises(CloudBusy, match="closing"):
            while True:  # until the signal has arrived
                async for _ in link.generate(Request(prompt="hi", sampling=Sampling(max_tokens=1))):
                    pass
        ends = [item async for item in items if isinstance(item, Finish)]
        assert [end.reason for end in ends] in (["stop"], ["length"])
        assert await asyncio.to_thread(process.wait, 20) == 0
    used = UsedFile(used_file(home / "data" / "keys")).read(int(time.time() // 86_400))
    assert sum(each.requests for each in used.values()) >= 1, "the day's use outlives the cloud"


@contextlib.contextmanager
def shared_cloud(home: Path) -> Iterator[tuple[dict[str, str], list[psutil.Process]]]:
    """Serve the embedded model by two processes; yield what was announced and the followers."""
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--tensor-parallel-size", "2"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--bind", "tcp://127.0.0.1:*", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NEARFAR_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        children = psutil.Process(process.pid).children(recursive=True)
        yield told, [child for child in children if "cloud.engine.follower" in child.cmdline()]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, "a stopped cloud ends well"
        process.stdout.close()


@pytest.mark.slow
def test_two_processes_serve_one_model_and_leave_with_the_command(tmp_path: Path) -> None:
    with shared_cloud(tmp_path) as (told, followers):
        assert len(followers) == 1
        document = ask((told, tmp_path), "What is 17 + 25?", "--cloud")
        assert document["route"]["served_by"] == "cloud" and "42" in document["answer"]
    assert not any(child.is_running() for child in followers)


def test_a_model_shared_in_too_many_parts_is_refused_in_one_line(tmp_path: Path) -> None:
    arguments = ("cloud", "serve", "--tensor-parallel-size", "7", "--device", "cpu")
    done = nearfar(*arguments, NEARFAR_HOME=str(tmp_path))
    assert done.returncode == 1 and "cannot be divided by 7" in done.stderr
    assert "Traceback" not in done.stderr


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
    assert words in _for_another(endpoint)


def test_this_machine_is_told_an_address_whose_key_it_knows() -> None:
    assert _for_this("tcp://0.0.0.0:7070") == "tcp://127.0.0.1:7070"
    assert _for_this("tcp://192.0.2.1:7070") == "tcp://192.0.2.1:7070"


@pytest.mark.slow
def test_ctrl_c_ends_replicas_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nearfar", "cloud", "serve", "--replicas", "2", "--json"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--bind", "tcp://127.0.0.1:*"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "NEARFAR_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["endpoint"]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
