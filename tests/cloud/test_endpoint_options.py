"""Options of `cloud serve`: NAME=VALUE becomes an option of the engine, or one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.endpoint_options import EndpointOptions, read_settings
from engine.torch.options import EngineOptions
from offload.errors import SettingsError


def test_values_take_the_type_of_their_option() -> None:
    typed = (
        "attention-backend=flex",
        "async_scheduling=on",
        "enforce_eager = false",
        "target_step_s=0.02",
        "max_num_seqs=8",
        "fuse_operators=auto",
    )
    assert read_settings(typed) == {
        "attention_backend": "flex",
        "async_scheduling": True,
        "enforce_eager": False,
        "target_step_s": 0.02,
        "max_num_seqs": 8,
        "fuse_operators": None,
    }


def test_every_option_without_a_flag_can_be_typed_as_it_prints() -> None:
    flags = {"device", "max_model_len", "tensor_parallel_size", "tokenizer", "profile"}
    plain = EngineOptions(device="cpu")
    for name in set(EngineOptions.__dataclass_fields__) - flags:
        assert read_settings([f"{name}={getattr(plain, name)}"]) == {name: getattr(plain, name)}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["kv_cache_dtype"], "write it as NAME=VALUE"),
        (["attention_bakend=torch"], "did you mean attention_backend"),
        (["max_num_seqs=many"], "max_num_seqs=many does not fit"),
        (["kv_cache_dtype=int3"], "does not fit"),
        (["device=cpu"], "has a flag of its own: --device"),
        (["max_num_seqs=1", "max-num-seqs=2"], "given twice"),
    ],
)
def test_what_cannot_be_read_is_one_line(typed: list[str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_settings(typed)


def test_another_server_has_no_options_of_our_engine() -> None:
    with pytest.raises(SettingsError, match="leave out --engine"):
        EndpointOptions(upstream="http://127.0.0.1:1/v1", engine=["max_num_seqs=1"])


def test_the_older_name_of_the_model_pool_keeps_working(capsys: pytest.CaptureFixture[str]) -> None:
    assert EndpointOptions(shelf="models", max_loaded=2).model_pool == "models"
    assert capsys.readouterr().err == "nearfar: --shelf is called --model-pool now\n"


def test_a_number_that_follows_the_load_has_bounds_delays_and_a_target() -> None:
    chosen = EndpointOptions(
        min_replicas=2, max_replicas=4, scale_by="latency", scale_target=5, upscale_delay_s=3
    )
    scaling = chosen.scaling()
    assert scaling is not None and chosen.most_replicas == 4
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 4)
    assert (scaling.target_latency_s, scaling.target_ongoing_requests) == (5, 2)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (3, 600)
    assert EndpointOptions(num_replicas=3).scaling() is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"num_replicas": 2, "max_replicas": 4}, "leave one of them out"),
        ({"min_replicas": 2}, "--min-replicas needs --max-replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "the first not above the second"),
        ({"max_replicas": 2, "scale_by": "load"}, "no scaling policy 'load'; known are queue"),
        ({"max_replicas": 2, "upscale_delay_s": -1}, "--upscale-delay is -1; it must be 0 or more"),
        ({"max_replicas": 2, "upstream": "http://127.0.0.1:1/v1"}, "leave out .*--replicas"),
    ],
)
def test_a_number_of_replicas_that_cannot_be_is_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        EndpointOptions(**given)
