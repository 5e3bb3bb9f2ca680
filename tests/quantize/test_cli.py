from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backbone.errors import NearfarError
from quantize.cli import app

Make = Callable[..., Path]
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
FEW = ["--windows", "4", "--window", "32"]


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def run_json(*words: object) -> Any:
    return json.loads(run(*words, "--json"))


def test_gguf_is_written_and_described(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    out = tmp_path / "deep" / "m.gguf"
    found = run_json("gguf", source, out, "--type", "q4_0", "--keep", "ffn_down=q8_0")
    assert found["size_bytes"] == out.stat().st_size
    assert found["tensor_types"]["blk.0.ffn_down.weight"] == "Q8_0"
    assert "bits per weight" in run("gguf", source, tmp_path / "n.gguf")


def test_importance_feeds_gguf(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    matrix = tmp_path / "i.gguf"
    found = run_json("importance", source, matrix, *FEW)
    assert found["num_tokens"] == 4 * 32 and found["num_matrices"] == 8
    run("gguf", source, tmp_path / "a.gguf")
    run("gguf", source, tmp_path / "b.gguf", "--importance", matrix)
    assert (tmp_path / "a.gguf").read_bytes() != (tmp_path / "b.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_gptq_writes_a_folder(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    found = run_json("gptq", source, tmp_path / "out", "--group-size", 64, "--desc-act", *FEW)
    assert len(found["matrices"]) == 7
    config = json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    assert config["desc_act"] and config["group_size"] == 64 and config["sym"]


def test_a_plan_is_printed_and_carried_out(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat, and 12 + 34 = 46.\n" * 200)
    state = tmp_path / "state.json"
    words = ("--text", text, "--state", state, *FEW, "--types", "q4_k,Q8_0")
    found = run_json("plan", source, "--target-bpw", 5.0, *words)
    assert found["size_bytes"] <= found["budget_bytes"]
    out = tmp_path / "m.gguf"
    again = run_json("plan", source, out, "--target-bytes", found["budget_bytes"], *words)
    assert again["types"] == found["types"]
    assert out.stat().st_size == again["file_bytes"] <= found["budget_bytes"]
    fitted = run_json("plan", source, "--fit", "--context", 128, *words)
    assert set(fitted["types"].values()) == {"q8_0"}


def test_a_report_is_a_table_a_document_and_a_picture(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("llama", **SHAPE)
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat, and 12 + 34 = 46.\n" * 200)
    run("gguf", source, tmp_path / "m.gguf")
    words = ("report", tmp_path / "m.gguf", "--reference", source, "--text", text, *FEW)
    state = ("--state", tmp_path / "rows.json")
    found = run_json(*words, *state, "--picture", tmp_path / "p.svg", "--threads", 1)
    assert found["rows"][0]["mean_kld"] > 0
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    assert "m.gguf" in run(*words, *state, "--threads", 1)


def failing(*words: object) -> str:
    with pytest.raises(NearfarError) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_errors_reach_the_top_as_they_are(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    out = tmp_path / "out.gguf"
    assert "PATTERN=TYPE" in failing("gguf", source, out, "--keep", "q8_0")
    assert "exactly one" in failing("plan", source)
    assert "exactly one" in failing("plan", source, "--fit", "--target-bpw", 4)
    assert "unknown tensor type" in failing("plan", source, "--fit", "--types", "q9")
    assert "no size" in failing("plan", source, "--target-bytes", "many")
    assert "use 4 or 8" in failing("gptq", source, tmp_path / "g", "--bits", 3)
    assert "checkpoint_format" in failing("gptq", source, tmp_path / "g", "--format-version", 3)
    assert "unknown solver" in failing("gptq", source, tmp_path / "g", "--solver", "other")
    if find_spec("gptqmodel") is None:
        message = failing("gptq", source, tmp_path / "g", "--solver", "gptqmodel")
        assert "nearfar[gpu]" in message
    assert "UTF-8" in failing("importance", source, tmp_path / "i", "--text", tmp_path / "no")
    assert "does not exist" in failing("gguf", source, out, "--importance", tmp_path / "no")
    assert "does not exist" in failing("gguf", tmp_path / "nowhere", out)


def test_help_needs_neither_torch_nor_llama_cpp() -> None:
    code = (
        "import sys; import quantize.cli; "
        "print(sorted({'torch', 'llama_cpp', 'gguf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_converting_needs_no_torch(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama", **SHAPE)
    code = (
        "import sys; from pathlib import Path; from quantize.gguf import convert; "
        f"convert(Path({str(source)!r}), Path({str(tmp_path / 'm.gguf')!r}), kind='q4_k_m'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_that_is_there_is_written_over_only_by_force(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source, out = make_checkpoint("llama", **SHAPE), tmp_path / "m.gguf"
    out.write_text("a day's work")
    for words in (
        ("gguf", source, out),
        ("smooth-keys", out, out),
        ("importance", source, out, *FEW),
        ("plan", source, out, "--target-bpw", 5.0),
    ):
        with pytest.raises(NearfarError, match="--force"):
            run(*words)
        assert out.read_text() == "a day's work"
    run("gguf", source, out, "--force")
    assert out.read_bytes()[:4] == b"GGUF"
