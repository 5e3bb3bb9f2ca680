"""A model shared between processes writes what it writes alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbone.config import NetworkConfig
from cloud.engine.batch import Row, StepBatch
from cloud.engine.options import EngineOptions
from cloud.engine.parallel import _pack, _unpack, shared_config
from offload.errors import SettingsError
from tests.cloud.golden import reference_tokens
from tests.tiny_checkpoints import write_checkpoint

PROMPTS = ["the cat", "what is seventeen plus twenty-five", "how many seconds"]
PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
import torch
from cloud.engine.engine import CloudEngine
from cloud.engine.loading import follow_engine
from cloud.engine.options import EngineOptions
from tests.cloud.golden import answer, ask, tokens_of

torch.set_num_threads(1)
folder, prompts = Path(sys.argv[1]), json.loads(sys.argv[2])
options = EngineOptions(device="cpu", tensor_parallel_size=2, max_num_batched_tokens=6)

async def lead():
    engine = CloudEngine(folder, options=options)
    told = await asyncio.gather(*(answer(engine, ask(p, max_tokens=20)) for p in prompts))
    print(json.dumps([tokens_of(deltas) for deltas, _ in told]))
    await engine.aclose()
    engine._loop._batching.check_integrity()

if os.environ["RANK"] == "0":
    asyncio.run(lead())
else:
    follow_engine(folder, options)
"""


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps(PROMPTS)],
        env={**os.environ, **place, "RANK": str(rank), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3-tied", "qwen2"])
def test_two_processes_write_transformers_tokens(family: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, family)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(folder, rank, port) for rank in (0, 1)]
    outputs = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs[0][1] + outputs[1][1]
    expected = [reference_tokens(folder, prompt, 20) for prompt in PROMPTS]
    assert json.loads(outputs[0][0].splitlines()[-1]) == expected


def test_a_step_is_told_as_it_was() -> None:
    rows = [Row(0, 1, 9, [4, 5]), Row(1, 2, 2, [7])]
    numbers = (torch.tensor([1, 2, 3]), torch.tensor([8, 0, 1]), torch.tensor([40, 70, 71]))
    told = _unpack(torch.tensor(_pack(StepBatch(*numbers, rows))))
    assert told.rows == rows
    assert all(map(torch.equal, (told.tokens, told.positions, told.slots), numbers))


def test_heads_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    config = NetworkConfig.load(write_checkpoint(tmp_path, "qwen2"))
    with pytest.raises(SettingsError, match="does not divide the model's num_attention_heads=4"):
        shared_config(config, 3)
    assert shared_config(config, 2).num_key_value_heads == 1


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs fuse_operators"):
        EngineOptions(device="cpu", tensor_parallel_size=2, fuse_operators=False)
