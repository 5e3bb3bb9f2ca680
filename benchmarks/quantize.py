"""What each format keeps of a model, at which size, over several calibration seeds.

    python -m benchmarks.quantize MODEL --calibration TEXT --text TEXT --json OUT
    python -m benchmarks.quantize MODEL --own-text --json OUT
    python -m benchmarks.quantize offload/pair/nearfar-cloud --pair-text --json OUT

MODEL is a trained Hugging Face folder. With --own-text the model itself writes the texts, at
temperature 1: what it was trained on, where no such text is at hand. With --pair-text the texts
are conversations for the embedded pair, and only answers are scored. Both sides of every
comparison run here, on the same windows of text; packages that are not installed are left out
and named. With --gguf-only the folders of GPTQ and bitsandbytes are left out, and with --moved the
model is first moved off the grid that its weights were decoded from (moved_weights.py). Quality
only: of time, what the plan's measuring took of the processor.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any

from benchmarks.moved_weights import move
from benchmarks.own_text import own_text
from benchmarks.pair_text import ANSWERS, pair_text
from quantize.bnb import quantize_bnb
from quantize.calibration import CalibrationOptions
from quantize.gguf import convert
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.gptqmodel_solver import quantize_with_gptqmodel
from quantize.measure_importance import measure_importance
from quantize.plan import TypePlan, convert_by_plan, make_plan
from quantize.report import QuantizationReport, ReportOptions, make_report
from quantize.sensitivity import SensitivityOptions, measure_sensitivity
from quantize.weights import read_config

PACKAGES = ("torch", "transformers", "llama-cpp-python", "gguf", "gptqmodel", "bitsandbytes")
FIGURES = (
    "size_bytes", "perplexity_change", "perplexity_change_error", "mean_kld",
    "kld_999", "top1_agreement",
)  # fmt: skip
# name -> (ours, theirs): the ratio of mean KL divergence, below 1 where ours is nearer
COMPARISONS = {
    "plan / Q4_K_M with importance": ("plan", "q4_k_m importance"),
    "plan / Q4_K_M": ("plan", "q4_k_m"),
    "GPTQ / GPTQModel, coarse groups": ("gptq coarse", "gptqmodel coarse"),
    "GPTQ, fine groups / NF4": ("gptq fine", "nf4"),
    "plan at NF4's size / NF4": ("plan at nf4", "nf4"),
}


def main() -> None:
    """Run the seeds and write the figures, ratios first."""
    options = _parser().parse_args()
    calibration, text = _texts(options)
    runs = [_run(options, calibration, text, seed) for seed in range(options.seeds)]
    document = {
        "ratios_of_mean_kld": _ratios(runs),
        "models": {name: _mean(runs, name) for name in runs[0]["rows"]},
        "model": options.model.name,
        "note": options.note,
        "text": _name_of_text(options),
        "seeds": options.seeds,
        "positions": runs[0]["positions"],
        "reference_perplexity": runs[0]["perplexity"],
        "gptq_group_sizes": _group_sizes(options.model),
        "planned_types": runs[0]["types"],
        "plan_cpu_s": round(statistics.mean(run["plan_cpu_s"] for run in runs), 1),
        "moved": options.moved,
        "left_out": [p for p in ("gptqmodel", "bitsandbytes") if find_spec(p) is None],
        "hardware": {"processor": processor(), "system": platform.system()},
        "versions": _versions(),
        "runs": runs,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, ratio in document["ratios_of_mean_kld"].items():
        print(f"{name:32} {ratio['mean']:.3f}  ({ratio['min']:.3f} to {ratio['max']:.3f})")


def _texts(options: argparse.Namespace) -> tuple[str, str]:
    """Return what is calibrated on, and what is scored."""
    if options.pair_text:
        return pair_text(1), pair_text(2)
    if options.own_text:
        seeds = range(2, 2 + options.own_texts)
        return own_text(options.model, 1), "".join(own_text(options.model, s) for s in seeds)
    return (
        options.calibration.read_text(encoding="utf-8"),
        options.text.read_text(encoding="utf-8"),
    )


def _name_of_text(options: argparse.Namespace) -> str:
    if options.pair_text:
        return "generated conversations of unseen seeds, answers scored"
    return "the model's own" if options.own_text else str(options.text.name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--own-text", action="store_true")
    parser.add_argument("--pair-text", action="store_true")
    parser.add_argument("--own-texts", type=int, default=1, help="how many times 64 are scored")
    parser.add_argument("--note", default="")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--gguf-only", action="store_true")
    parser.add_argument("--moved", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--parse-special", action="store_true")
    return parser


def _run(options: argparse.Namespace, calibration: str, text: str, seed: int) -> dict[str, Any]:
    drawn = CalibrationOptions(
        num_windows=64,
        window_len=options.window,
        seed=seed,
        parse_special=options.parse_special or options.pair_text,
    )
    scored = ReportOptions(
        num_windows=options.windows,
        window_len=options.window,
        parse_special=options.parse_special or options.pair_text,
        answers_between=ANSWERS if options.pair_text else None,
    )
    with tempfile.TemporaryDirectory(prefix="nearfar-bench-") as folder:
        model = options.model
        if options.moved:
            model = move(model, Path(folder, "moved"), seed)
        made, plan, plan_s = _make_ggufs(model, Path(folder), calibration, drawn)
        if not options.gguf_only:
            made |= _make_folders(model, Path(folder), calibration, drawn)
        report = make_report(list(made.values()), model, text, options=scored)
    types = dict(Counter(plan.types.values()))
    return {
        "seed": seed,
        "rows": _rows(made, report),
        "types": types,
        "plan_cpu_s": plan_s,
        "positions": report.num_positions,
        "perplexity": report.reference_perplexity,
    }


def _make_ggufs(
    model: Path, out: Path, text: str, drawn: CalibrationOptions
) -> tuple[dict[str, Path], TypePlan, float]:
    """Return the files by name, the plan at Q4_K_M's size, and the seconds it took to measure."""
    importance = measure_importance(model, text, options=drawn).values
    made = {
        "q8_0": convert(model, out / "q8_0.gguf", kind="q8_0").path,
        "q8_0, f16 embedding": convert(
            model,
            out / "q8_0-e.gguf",
            kind="q8_0",
            overrides=dict.fromkeys(("token_embd.weight", "output.weight"), "f16"),
        ).path,
        "q4_0": convert(model, out / "q4_0.gguf", kind="q4_0").path,
        "q4_k_m": convert(model, out / "q4_k_m.gguf", kind="q4_k_m").path,
        "q4_k_m importance": convert(
            model, out / "q4_k_m-i.gguf", kind="q4_k_m", importance=importance
        ).path,
    }
    # Other windows of the same text than the importance saw.
    part = replace(drawn, num_windows=8, seed=drawn.seed + 1000)
    began = time.process_time()
    found = measure_sensitivity(
        model, text, importance=importance, options=SensitivityOptions(text=part)
    )
    took_s = time.process_time() - began
    plan = make_plan(found, made["q4_k_m importance"].stat().st_size)
    made["plan"] = convert_by_plan(model, out / "plan.gguf", plan, importance=importance).path
    if find_spec("bitsandbytes") is not None:
        same = make_plan(found, quantize_bnb(model, out / "nf4", kind="nf4").size_bytes)
        made["plan at nf4"] = convert_by_plan(
            model, out / "plan-nf4.gguf", same, importance=importance
        ).path
    return made, plan, took_s


def _make_folders(model: Path, out: Path, text: str, drawn: CalibrationOptions) -> dict[str, Path]:
    """Return the folders by name: GPTQ of both solvers, and bitsandbytes'."""
    made: dict[str, Path] = {}
    coarse, fine = _group_sizes(model)
    names = {coarse: "gptq coarse", fine: "gptq fine"}
    for size in (coarse, fine):
        gptq = GptqOptions(group_size=size)
        made[names[size]] = quantize_gptq(
            model, out / f"gptq-{size}", options=gptq, text=text, calibration=drawn
        ).path
    eight = GptqOptions(bits=8, group_size=coarse)
    made["gptq 8 bit"] = quantize_gptq(
        model, out / "gptq-8", options=eight, text=text, calibration=drawn
    ).path
    if find_spec("gptqmodel") is not None:
        made["gptqmodel coarse"] = quantize_with_gptqmodel(
            model,
            out / "gptqmodel",
            options=GptqOptions(group_size=coarse),
            text=text,
            calibration=drawn,
        )
    if find_spec("bitsandbytes") is not None:
        made["nf4"] = out / "nf4"
    return made


def _group_sizes(model: Path) -> tuple[int, int]:
    """Return 128 and 64, or the largest halves of them that divide every row."""
    config = read_config(model)
    rows = gcd(int(config["hidden_size"]), int(config["intermediate_size"]))
    coarse = gcd(128, rows)
    return coarse, coarse // 2


def _rows(made: dict[str, Path], report: QuantizationReport) -> dict[str, dict[str, float]]:
    return {
        name: {figure: getattr(row, figure) for figure in FIGURES}
        for name, row in zip(made, report.rows, strict=True)
    }


def _ratios(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name, (ours, theirs) in COMPARISONS.items():
        if not {ours, theirs} <= runs[0]["rows"].keys():
            continue
        values = [run["rows"][ours]["mean_kld"] / run["rows"][theirs]["mean_kld"] for run in runs]
        found[name] = {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
    return found


def _mean(runs: list[dict[str, Any]], name: str) -> dict[str, float]:
    return {f: statistics.mean(run["rows"][name][f] for run in runs) for f in FIGURES}


def processor() -> str:
    """Return what the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
