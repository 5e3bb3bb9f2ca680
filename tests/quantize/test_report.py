from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone.errors import CheckpointError, MissingExtra, NearfarError
from quantize import report as report_module
from quantize.calibration import CalibrationOptions
from quantize.calibration_text import default_text
from quantize.divergence import DivergenceSum, log_softmax
from quantize.gguf import convert
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.isolated_evaluation import EvaluationResult
from quantize.pareto_plot import pareto_front, picture
from quantize.report import (
    QuantizationReport,
    ReportOptions,
    ReportRow,
    make_report,
    scored_windows,
)
from tests.quantize.conftest import shared_model

Make = Callable[..., Path]
FEW = ReportOptions(num_windows=3, window_len=64)


def test_divergence_is_what_the_formulas_say() -> None:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(50, 11)).astype(np.float32)
    q = p + rng.normal(size=p.shape).astype(np.float32) * 0.1
    targets = rng.integers(0, 11, 50)
    both = DivergenceSum()
    both.add(p[:20], q[:20], targets[:20])
    both.add(p[20:], q[20:], targets[20:])
    found = both.result()
    kld = []
    for a, b in zip(p.astype(np.float64), q.astype(np.float64), strict=True):
        pa, pb = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
        kld.append(float((pa * np.log(pa / pb)).sum()))
    assert found.mean_kld == pytest.approx(np.mean(kld), rel=1e-9)
    assert found.kld_999 == pytest.approx(np.quantile(kld, 0.999), rel=1e-9)
    assert found.num_positions == 50
    nll = [-log_softmax(q)[i, t] for i, t in enumerate(targets)]
    assert found.perplexity == pytest.approx(np.exp(np.mean(nll)))


def test_a_model_does_not_differ_from_itself() -> None:
    logits = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    same = DivergenceSum()
    same.add(logits, logits, np.zeros(9, dtype=np.int64))
    found = same.result()
    assert found.mean_kld == 0.0 and found.top1_agreement == 1.0
    assert found.perplexity_change == 0.0


def test_a_report_ranks_formats_by_what_they_keep(tmp_path: Path) -> None:
    """On a trained model: fewer bits are farther away, and every format is read the same way."""
    source = shared_model("stories260K")
    text = default_text()
    models = [convert(source, tmp_path / f"{k}.gguf", kind=k).path for k in ("q8_0", "q4_0")]
    options = GptqOptions(bits=8, group_size=4)
    calibration = CalibrationOptions(num_windows=8, window_len=64)
    models.append(
        quantize_gptq(source, tmp_path / "gptq", options=options, calibration=calibration).path
    )
    done = make_report(models, source, text, options=FEW)
    eight, four, gptq = done.rows
    assert 0 < eight.mean_kld < 0.01 < four.mean_kld
    assert abs(eight.perplexity_change) < 0.01
    assert gptq.format == "gptq" and gptq.mean_kld < four.mean_kld
    assert four.size_bytes < eight.size_bytes
    assert done.reference_perplexity == pytest.approx(eight.perplexity, rel=0.01)
    assert all(row.tokens_per_s > 0 and row.load_s > 0 for row in done.rows)
    assert all(row.memory_bytes > 100_000 for row in done.rows)
    assert json.loads(json.dumps(done.to_json()))["num_positions"] == 3 * 31


def test_windows_follow_each_other_and_begin_as_the_model_wants(make_checkpoint: Make) -> None:
    source = make_checkpoint("llama")
    windows = scored_windows(source, default_text(), FEW)
    assert len(windows) == 3 and all(len(w) == 64 for w in windows)
    stories = shared_model("stories260K")
    assert all(w[0] == 1 for w in scored_windows(stories, default_text(), FEW))


def fake_verdict(kld: float) -> EvaluationResult:
    found = DivergenceSum()
    logits = np.zeros((4, 3), dtype=np.float32)
    moved = logits + np.asarray([0, 0, kld], dtype=np.float32)
    found.add(logits, moved, np.zeros(4, dtype=np.int64))
    return EvaluationResult(divergence=found.result(), load_s=1.0, tokens_per_s=1.0, memory_bytes=1)


def test_finished_rows_are_not_judged_again(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint("llama")
    models = [convert(source, tmp_path / f"{k}.gguf", kind=k).path for k in ("q8_0", "q4_0")]
    judged: list[str] = []

    def fake(task: Any) -> EvaluationResult:
        judged.append(Path(task.model).name)
        if len(judged) == 3:
            raise NearfarError("interrupted")
        return fake_verdict(0.5)

    monkeypatch.setattr(report_module, "evaluate", fake)
    cache = tmp_path / "rows.json"
    first = make_report(models, source, default_text(), options=FEW, cache=cache)
    assert first.failed == ("interrupted",), "the rows that are there are not thrown away"
    assert [Path(row.model) for row in first.rows] == models[:1]
    make_report(models, source, default_text(), options=FEW, cache=cache)
    assert judged == [source.name, "q8_0.gguf", "q4_0.gguf", source.name, "q4_0.gguf"]
    convert(source, models[0], kind="q5_0")
    make_report(models, source, default_text(), options=FEW, cache=cache)
    assert judged[-1] == "q8_0.gguf", "a changed file is judged anew"


def test_a_model_whose_packages_are_missing_is_said_before_any_is_judged(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint("llama")
    config = json.loads((source / "config.json").read_text())
    folder = tmp_path / "nf4"
    folder.mkdir()
    quantized = config | {"quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(quantized))
    monkeypatch.setattr("quantize.bnb.find_spec", lambda name: None)
    monkeypatch.setattr(report_module, "evaluate", lambda task: pytest.fail("nothing is judged"))
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        make_report([source, folder], source, default_text(), options=FEW)


def test_the_memory_of_a_model_is_not_that_of_its_judge(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("llama")
    models = [convert(source, tmp_path / f"{k}.gguf", kind=k).path for k in ("f32", "q8_0")]
    done = make_report(models, source, default_text(), options=FEW)
    # The judge itself holds hundreds of megabytes, and these models weigh less than one.
    assert max(row.memory_bytes for row in done.rows) < 60_000_000, done.rows


def row(name: str, size: int, kld: float) -> ReportRow:
    return ReportRow(
        model=name,
        format="gguf",
        size_bytes=size,
        bits_per_weight=4.0,
        perplexity=5.0,
        perplexity_change=0.1,
        mean_kld=kld,
        perplexity_change_error=0.0,
        mean_kld_error=0.0,
        kld_999=kld * 9,
        top1_agreement=0.9,
        tokens_per_s=1.0,
        load_s=1.0,
        memory_bytes=1,
    )


def test_only_unbeaten_models_are_on_the_front() -> None:
    rows = [row("a", 10, 0.5), row("b", 20, 0.6), row("c", 30, 0.1), row("d", 30, 0.2)]
    assert [r.model for r in pareto_front(rows)] == ["a", "c"]


def test_the_picture_is_well_formed_and_names_every_model() -> None:
    rows = (row("a<b>.gguf", 10_000, 0.5), row("c.gguf", 30_000, 1e-12))
    done = QuantizationReport(
        reference="ref",
        reference_bytes=1,
        reference_perplexity=4.0,
        num_positions=9,
        rows=rows,
    )
    root = ElementTree.fromstring(picture(done))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "a<b>.gguf" in texts and "c.gguf" in texts


def test_every_bad_input_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    good = convert(source, tmp_path / "m.gguf", kind="q8_0").path
    text = default_text()
    with pytest.raises(CheckpointError, match="does not exist"):
        make_report([tmp_path / "nowhere"], source, text, options=FEW)
    with pytest.raises(NearfarError, match="at least one model"):
        make_report([], source, text, options=FEW)
    with pytest.raises(NearfarError, match="fewer than one window"):
        make_report([good], source, "short", options=FEW)
    with pytest.raises(NearfarError, match="smaller window"):
        make_report([good], source, text, options=ReportOptions(window_len=4096))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(good.read_bytes()[:5000])
    with pytest.raises(NearfarError, match="GGUF"):
        make_report([broken], source, text, options=FEW)
