"""Quality as lm-evaluation-harness sees it through our endpoints, beside its own `hf` model.

    python -m benchmarks.lm_eval_sides --lm-eval VENV/bin/lm_eval --folder FOLDER --near MODEL.gguf
        --questions FOLDER --text FILE [--limit N]

The same weights three times: a Hugging Face folder run by transformers (`hf`, float32), the same
folder by `nearfar cloud serve`, and the GGUF file it was decoded from by `nearfar serve`. Three
tasks: a choice among the options of BBH's questions by their likelihood, numbers of SVAMP written
greedily, and the likelihood of passages of a text. Writes lm_eval_sides.json beside itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

Json = Any
PASSAGES, PASSAGE_CHARACTERS = 8, 1200

TASKS = {
    "choice": """
task: choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: "{{place}}"
metric_list: [{metric: acc}]
""",
    "number": """
task: number
output_type: generate_until
doc_to_text: "{{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], do_sample: false, temperature: 0.0, max_gen_toks: 40}
filter_list:
  - name: last
    filter:
      - {function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}
      - {function: take_first}
metric_list: [{metric: exact_match}]
""",
    "passages": """
task: passages
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}]
""",
}
METRICS = {"choice": "acc,none", "number": "exact_match,last", "passages": "word_perplexity,none"}


def rows(questions: Path, text: Path, limit: int) -> dict[str, list[Json]]:
    """Return the documents of each task."""
    bbh = [json.loads(line) for line in (questions / "bbh.jsonl").open(encoding="utf-8")]
    choices = [row for row in bbh if row["kind"] == "choice"]
    svamp = [json.loads(line) for line in (questions / "svamp.jsonl").open(encoding="utf-8")]
    whole = text.read_text(encoding="utf-8")
    step = len(whole) // PASSAGES
    return {
        "choice": [_choice(row) for row in choices[:: len(choices) // limit][:limit]],
        "number": [_asked(row) for row in svamp[:: len(svamp) // limit][:limit]],
        "passages": [
            {"text": whole[at * step :][:PASSAGE_CHARACTERS].strip()} for at in range(PASSAGES)
        ],
    }


def _asked(row: Json) -> Json:
    return {"question": row["question"].rpartition("\n")[0], "answer": row["answer"]}


def _choice(row: Json) -> Json:
    letters = dict.fromkeys(re.findall(r"^\(([A-Z])\)", row["question"], flags=re.MULTILINE))
    options = [f" ({letter})" for letter in letters]
    asked = f"{row['question'].rpartition(chr(10))[0]}\nAnswer:"
    return {"question": asked, "options": options, "place": options.index(f" {_letter(row)}")}


def _letter(row: Json) -> str:
    return f"({row['answer'].strip('()')})"


@contextmanager
def served(*command: str) -> Iterator[str]:
    """Run one of our servers while the block lasts; yield its address, ending in /v1."""
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(
            [sys.executable, "-m", "nearfar", *command, "--json"],
            env={**os.environ, "NEARFAR_HOME": home},
            stdout=subprocess.PIPE,
        )
        assert server.stdout is not None, "its output is a pipe"
        try:
            told = json.loads(server.stdout.readline())
            url = httpx.URL(told.get("url") or told["http"])
            while httpx.get(url.copy_with(path="/ready")).status_code != 200:
                time.sleep(0.2)
            yield str(url).rstrip("/")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def evaluate(lm_eval: Path, work: Path, side: str, model: str, arguments: str) -> dict[str, Json]:
    """Return lm_eval's results of every task, and what it wrote for each question."""
    out = work / "out" / side
    wish = ["--model", model, "--model_args", arguments, "--tasks", ",".join(TASKS)]
    wish += ["--include_path", str(work), "--output_path", str(out), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    began = time.monotonic()
    subprocess.run([str(lm_eval), *wish], check=True, env={**os.environ, **offline})
    (found,) = out.rglob("results*.json")
    results = json.loads(found.read_text(encoding="utf-8"))["results"]
    written = [
        json.loads(line)["resps"]
        for path in out.rglob("samples_number*.jsonl")
        for line in path.open(encoding="utf-8")
    ]
    return {
        "scores": {task: results[task][metric] for task, metric in METRICS.items()},
        "written": written,
        "seconds": round(time.monotonic() - began, 1),
    }


def beside(hf: Json, ours: Json, numbers: dict[str, int]) -> Json:
    """Return how one side's scores stand to those of `hf`, with hf's own standard errors."""
    scores, theirs = ours["scores"], hf["scores"]
    same = sum(a == b for a, b in zip(ours["written"], hf["written"], strict=True))
    report: dict[str, Json] = {"seconds": ours["seconds"]}
    for task in ("choice", "number"):
        share = theirs[task]
        error = math.sqrt(share * (1 - share) / numbers[task])
        report[task] = {"ours": scores[task], "hf": share, "standard_error": round(error, 4)}
    report["passages"] = {"ours": scores["passages"], "hf": theirs["passages"]}
    report["passages"]["ratio"] = scores["passages"] / theirs["passages"]
    return report | {"same_texts": f"{same} of {len(hf['written'])}"}


def main() -> None:
    """Run lm_eval on each side and keep how they stand to one another."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("lm-eval", "folder", "near", "questions", "text"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=60, help="questions of each task")
    asked = parser.parse_args()
    lm_eval, folder = asked.lm_eval.absolute(), asked.folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        documents = rows(asked.questions, asked.text, asked.limit)
        for task, described in TASKS.items():
            lines = "".join(json.dumps(row) + "\n" for row in documents[task])
            (work / f"{task}.jsonl").write_text(lines, encoding="utf-8")
            source = "dataset_path: json\ntest_split: test\n"
            source += f"dataset_kwargs: {{data_files: {{test: {work}/{task}.jsonl}}}}\n"
            (work / f"{task}.yaml").write_text(described + source, encoding="utf-8")
        hf = evaluate(lm_eval, work, "hf", "hf", f"pretrained={folder},dtype=float32")
        report: dict[str, Json] = {}
        sides = {
            "far, float32": (
                *("cloud", "serve", "--model", str(folder), "--bind", "tcp://127.0.0.1:*"),
                *("--http", "127.0.0.1:0", "--engine", "dtype=float32"),
            ),
            "near": ("serve", "--port", "0", "--model", str(asked.near.resolve())),
        }
        numbers = {task: len(each) for task, each in documents.items()}
        for side, command in sides.items():
            with served(*command) as url:
                model = "auto" if side.startswith("far") else "auto-local"
                arguments = f"base_url={url}/completions,model={model},num_concurrent=1,"
                arguments += (
                    f"tokenized_requests=True,tokenizer_backend=huggingface,tokenizer={folder}"
                )
                ours = evaluate(lm_eval, work, side, "local-completions", arguments)
            report[side] = beside(hf, ours, numbers)
    result = {
        "model": folder.name,
        "questions": numbers,
        "hf_seconds": hf["seconds"],
        "sides": report,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "transformers": version("transformers")},
    }
    print(json.dumps(result, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
