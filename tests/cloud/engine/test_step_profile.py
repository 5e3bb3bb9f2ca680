from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cloud.endpoint_options import EndpointOptions
from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.errors import SettingsError
from tests.cloud.golden import answer, ask, tokens_of
from tests.tiny_checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


async def _written(folder: Path, max_tokens: int, **options: object) -> list[int]:
    told = {"device": "cpu", "num_speculative_tokens": 0, **options}
    engine = CloudEngine(folder, options=EngineOptions(**told))  # type: ignore[arg-type]
    try:
        return tokens_of((await answer(engine, ask(max_tokens=max_tokens, ignore_eos=True)))[0])
    finally:
        await engine.aclose()


@pytest.mark.parametrize("max_tokens", [60, 20])
async def test_a_trace_of_warm_steps_is_written_and_the_operators_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, max_tokens: int
) -> None:
    """Also where the engine is closed before as many steps as are wanted."""
    trace = tmp_path / "trace.json"
    expected = await _written(folder, max_tokens)
    with caplog.at_level(logging.WARNING):
        assert await _written(folder, max_tokens, profile=str(trace)) == expected
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(event.get("name", "").startswith("aten::") for event in events)
    (told,) = [r.getMessage() for r in caplog.records if "profile of" in r.getMessage()]
    assert "aten::" in told and str(trace) in told
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


async def test_a_disk_that_fills_up_costs_the_profile_and_no_answer(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "torch.profiler.profile.export_chrome_trace",
        lambda _, path: Path(path).write_text('{"traceEvents": ['),
    )
    trace = tmp_path / "trace.json"
    with caplog.at_level(logging.WARNING):
        assert len(await _written(folder, 60, profile=str(trace))) == 60
    assert any("could not be written" in record.getMessage() for record in caplog.records)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"], "no half file stays"


def test_a_file_that_cannot_be_written_is_told_at_start(folder: Path, tmp_path: Path) -> None:
    wanted = EngineOptions(device="cpu", profile=str(tmp_path / "missing" / "trace.json"))
    with pytest.raises(SettingsError, match="cannot be written"):
        CloudEngine(folder, options=wanted)


@pytest.mark.parametrize("other", [{"num_replicas": 2}, {"upstream": "http://127.0.0.1:1/v1"}])
def test_a_profile_is_of_one_engine(other: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="--profile"):
        EndpointOptions(profile="trace.json", **other)  # type: ignore[arg-type]
