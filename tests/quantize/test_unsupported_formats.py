"""A quantized folder that is not read here is refused for the reason that holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.errors import CheckpointError
from quantize.gptq_format import unpack
from quantize.model_files import check_readable


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "awq", "bits": 4}, "quantized by 'awq'"),
        ({"quant_method": "gptq", "bits": 4, "pack_dtype": "int8"}, "int8 .pack_dtype"),
    ],
)
def test_what_is_not_read_is_named(
    tmp_path: Path, quantization: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        check_readable(tmp_path, quantization)


def test_settings_in_a_file_of_their_own_are_named(tmp_path: Path) -> None:
    check_readable(tmp_path, {})
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    with pytest.raises(CheckpointError, match=r"quantize_config\.json alone"):
        check_readable(tmp_path, {})
    check_readable(tmp_path, {"quant_method": "gptq", "bits": 4})


def test_a_matrix_without_its_groups_is_no_damage() -> None:
    parts = {name: torch.zeros(1) for name in ("qweight", "qzeros", "scales")}
    with pytest.raises(CheckpointError, match="has no g_idx"):
        unpack(parts, {"bits": 4})
