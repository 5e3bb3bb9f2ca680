"""Options of `cloud serve`: NAME=VALUE becomes an option of the engine, or one clear line."""

from __future__ import annotations

import pytest

from cloud.endpoint_options import EndpointOptions, read_settings
from cloud.engine.options import EngineOptions
from offload.errors import SettingsError


def test_values_take_the_type_of_their_option() -> None:
    typed = (
        "attention-backend=flex",
        "async_scheduling=on",
        "enforce_eager = false",
        "target_step_s=0.02",
        "max_num_seqs=8",
    )
    assert read_settings(typed) == {
        "attention_backend": "flex",
        "async_scheduling": True,
        "enforce_eager": False,
        "target_step_s": 0.02,
        "max_num_seqs": 8,
    }


def test_every_option_without_a_flag_can_be_typed_as_it_prints() -> None:
    flags = {"device", "max_model_len", "tensor_parallel_size", "tokenizer"}
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
