"""A model shared between processes writes what it writes alone, and each reads only its share."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.errors import NearfarError
from backbone.tensor_shard import ShardError, TensorShard
from cloud.engine.engine import CloudEngine
from engine.torch.kv.batch import BatchRow, StepBatch
from engine.torch.options import EngineOptions
from engine.torch.tensor_parallel import Group, Rendezvous, pack_step, unpack_step
from engine.torch.tp_launcher import TpLauncher, launch_workers
from offload.errors import SettingsError
from tests.cloud.golden import reference_tokens
from tests.tiny_checkpoints import write_checkpoint

PROMPTS = ["the cat", "what is seventeen plus twenty-five", "how many seconds"]
PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
import torch
from cloud.engine.engine import CloudEngine
from engine.torch.loading import run_torchrun_worker
from engine.torch.options import EngineOptions
from tests.cloud.golden import answer, ask, tokens_of

torch.set_num_threads(1)
folder, prompts = Path(sys.argv[1]), json.loads(sys.argv[2])
options = EngineOptions(
    device="cpu", tensor_parallel_size=2, max_num_batched_tokens=6, **json.loads(sys.argv[3])
)

async def lead():
    engine = CloudEngine(folder, options=options)
    told = await asyncio.gather(*(answer(engine, ask(p, max_tokens=20)) for p in prompts))
    print(json.dumps([tokens_of(deltas) for deltas, _ in told]))
    await engine.aclose()
    batching = engine.batching
    batching.check_integrity()
    assert not options.async_scheduling or batching.num_overlapped > 10, "steps were overlapped"

if os.environ.get("RANK", "0") == "0":
    asyncio.run(lead())
else:
    run_torchrun_worker(folder, options)
"""


def start(
    folder: Path, options: dict[str, Any] | None = None, **variables: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(folder),
            json.dumps(PROMPTS),
            json.dumps(options or {}),
        ],
        env={
            **os.environ,
            **variables,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_golden(folder: Path, printed: str) -> None:
    expected = [reference_tokens(folder, prompt, 20) for prompt in PROMPTS]
    assert json.loads(printed.splitlines()[-1]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3-tied", "qwen2", "gemma2-some-windows", "qwen3-moe"])
def test_an_engine_that_starts_its_follower_writes_transformers_tokens(
    family: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, family)
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_golden(folder, out)


@pytest.mark.slow
def test_steps_that_are_planned_ahead_write_the_same_in_two_processes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen3-tied")
    process = start(folder, {"async_scheduling": True, "num_speculative_tokens": 0})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_golden(folder, out)


@pytest.mark.slow
def test_two_processes_of_torchrun_write_transformers_tokens(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    both = [start(folder, **place, RANK=str(rank)) for rank in (0, 1)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs[0][1] + outputs[1][1]
    assert_golden(folder, outputs[0][0])


def test_a_step_is_told_as_it_was() -> None:
    rows = [BatchRow(0, 1, 9, [4, 5]), BatchRow(1, 2, 2, [-1, 7])]
    numbers = (torch.tensor([1, 2, 3]), torch.tensor([8, 0, 1]), torch.tensor([40, 70, 71]))
    batch = StepBatch(*numbers, rows, torch.stack(numbers))
    words = torch.tensor(pack_step(batch, is_filled=True))
    told, is_filled = unpack_step(words, torch.device("cpu"))
    assert is_filled
    assert told.rows == rows
    assert all(map(torch.equal, (told.tokens, told.positions, told.slots), numbers))


def test_heads_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    config = NetworkConfig.load(write_checkpoint(tmp_path, "qwen2"))
    with pytest.raises(ShardError, match="num_attention_heads=4 cannot be divided by 3"):
        TensorShard(0, 3).of_config(config)
    assert TensorShard(0, 2).of_config(config).num_key_value_heads == 1


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs fuse_operators"):
        EngineOptions(device="cpu", tensor_parallel_size=2, fuse_operators=False)


@pytest.mark.parametrize("family", ["qwen2", "qwen3-moe"])
def test_shares_put_together_are_the_whole(family: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, family)
    whole = dict(load_network(folder).named_parameters())
    halves = [
        dict(load_network(folder, share=TensorShard(r, 2)).named_parameters()) for r in (0, 1)
    ]
    for name, tensor in whole.items():
        parts = [half[name] for half in halves]
        cut = [i for i, n in enumerate(tensor.shape) if parts[0].shape[i] != n]
        found = torch.cat(parts, cut[0]) if cut else parts[0]
        assert torch.equal(found, tensor), name


class Slices:
    """Stand in for a tensor in a file, and note what is asked of it."""

    def __init__(self, *shape: int) -> None:
        self.whole = torch.arange(float(math.prod(shape))).reshape(shape)
        self.asked: list[Any] = []

    def get_shape(self) -> list[int]:
        return list(self.whole.shape)

    def __getitem__(self, part: Any) -> Tensor:
        self.asked.append(part)
        return self.whole[part]


@pytest.mark.parametrize(
    ("name", "shape", "asked"),
    [
        ("layers.0.self_attn.q_proj.weight", (2, 6), slice(2, 4)),
        ("layers.0.self_attn.q_proj.bias", (2,), slice(2, 4)),
        ("layers.3.self_attn.o_proj.weight", (4, 3), (slice(None), slice(3, 6))),
        ("layers.0.mlp.experts.5.down_proj.weight", (4, 3), (slice(None), slice(3, 6))),
        ("layers.0.mlp.gate.weight", (4, 6), slice(None)),
    ],
)
def test_a_process_asks_the_file_for_its_share_alone(
    name: str, shape: tuple[int, ...], asked: Any
) -> None:
    stored = Slices(4) if len(shape) == 1 else Slices(4, 6)
    found = TensorShard(1, 2).of_tensor(name, stored, shape)
    assert stored.asked == [asked] and tuple(found.shape) == shape


def test_a_bias_behind_a_sum_is_added_by_the_first_alone() -> None:
    name = "layers.0.self_attn.o_proj.bias"
    first, second = (TensorShard(rank, 2).of_tensor(name, Slices(4), (4,)) for rank in (0, 1))
    assert first.tolist() == [0, 1, 2, 3] and not second.any()


def test_a_follower_that_cannot_load_is_told_in_one_line(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    (folder / "model.safetensors").unlink()
    launcher, rendezvous = launch_workers(
        folder, EngineOptions(device="cpu", tensor_parallel_size=2)
    )
    assert rendezvous is not None and (rendezvous.rank, rendezvous.size) == (0, 2)
    with pytest.raises(NearfarError, match=r"process 1 .* failed: .*has no model\.safetensors"):
        launcher.wait_until_loaded()
    launcher.end()


def test_an_engine_that_cannot_load_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path, "qwen2")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]  # seen when the weights are read, and no sooner
    save_file(weights, folder / "model.safetensors")
    ended: list[TpLauncher] = []
    monkeypatch.setattr(
        TpLauncher, "end", lambda self, end=TpLauncher.end: (end(self), ended.append(self))
    )
    with pytest.raises(NearfarError, match=r"missing \(norm\.weight"):
        CloudEngine(folder, options=EngineOptions(device="cpu", tensor_parallel_size=2))
    assert all(process.returncode is not None for process in ended[0].processes)


def test_torchrun_with_another_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingsError, match="is 2 and 3 processes were started"):
        Rendezvous.by_torchrun(2)


@pytest.mark.parametrize(("address", "stays"), [("file:///nowhere", True), ("env://", False)])
def test_processes_that_were_started_here_listen_on_loopback_alone(
    address: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    listened: list[str | None] = []

    def meet(*_: object, **__: object) -> None:
        listened.extend(map(os.environ.get, names))
        raise RuntimeError("nobody came")

    monkeypatch.setattr("torch.distributed.init_process_group", meet)
    with pytest.raises(SettingsError, match="nobody came"):
        Group(Rendezvous(rank=0, size=2, address=address), torch.device("cpu"))
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    assert set(listened) == (loopback if stays else {None})
