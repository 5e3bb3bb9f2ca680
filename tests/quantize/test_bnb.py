from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import CheckpointError, MissingExtra, NearfarError
from quantize import bnb as bnb_module
from quantize.bnb import load_bnb, quantize_bnb
from quantize.logits_model import TransformersModel, format_of
from tests.quantize.test_gguf import TOKENS, transformers_logits

Make = Callable[..., Path]
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "bound"), [("nf4", 0.6), ("fp4", 0.8), ("int8", 0.1)])
def test_a_folder_says_nearly_the_same(
    kind: str, bound: float, make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("llama", hidden_size=128, intermediate_size=256)
    done = quantize_bnb(source, tmp_path / "out", kind=kind)
    assert format_of(done.path) == "bitsandbytes"
    expected = transformers_logits(source, TOKENS)
    found = TransformersModel(done.path).logits(TOKENS)
    assert 0 < np.linalg.norm(found - expected) / np.linalg.norm(expected) < bound
    assert (done.path / "tokenizer.json").is_file()


def test_every_bad_input_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    with pytest.raises(NearfarError, match="unknown bitsandbytes type"):
        quantize_bnb(source, tmp_path / "out", kind="int3")
    with pytest.raises(NearfarError, match="exists already"):
        quantize_bnb(source, source)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        quantize_bnb(tmp_path, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no bitsandbytes"):
        load_bnb(source)


def test_a_missing_package_says_which_extra_brings_it(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bnb_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"nearfar\[gpu\]"):
        quantize_bnb(make_checkpoint("llama"), tmp_path / "out")
