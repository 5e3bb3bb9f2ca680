"""Quantization report: each model's size, and how far its predictions moved."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backbone.errors import NearfarError, cause
from backbone.file_reading import MAX_TEXT_BYTES, read_text
from backbone.files import SHARED, atomic_write, scratch_folder
from backbone.files import parse_json as parse_json
from backbone.terminal_text import readable_bytes
from backbone.tokenizer import Tokenizer
from quantize.divergence import control_ids
from quantize.isolated_evaluation import EvaluationResult, EvaluationTask, evaluate
from quantize.logits_model import format_of, require_format, size_of
from quantize.weights import read_config, stored_tensors

Progress = Callable[[int, int], None]  # (models done, models in all)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Report options: how much text is scored, the second half of each window as in llama.cpp."""

    num_windows: int = 32
    window_len: int = 512
    num_threads: int = 1
    parse_special: bool = False  # whether control tokens spelled in the text are meant
    # Score only tokens between these control tokens, the end included: a chat model's own words.
    answers_between: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.num_windows < 1 or self.window_len < 4 or self.num_threads < 1:
            raise NearfarError("a report needs at least 1 window of 4 tokens and 1 thread")

    @property
    def first_scored(self) -> int:
        """Return the first position whose prediction counts."""
        return self.window_len // 2


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """Report row of one model: its size, bits per weight, and distance from the reference."""

    model: str
    format: str
    size_bytes: int
    bits_per_weight: float
    perplexity: float
    perplexity_change: float
    perplexity_change_error: float
    mean_kld: float
    mean_kld_error: float
    kld_999: float
    top1_agreement: float
    tokens_per_s: float
    load_s: float
    memory_bytes: int  # of the loaded model


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """Report: all rows, the reference's own figures, and what was scored."""

    reference: str
    reference_bytes: int
    reference_perplexity: float
    num_positions: int
    rows: tuple[ReportRow, ...]
    failed: tuple[str, ...] = ()  # why models are not among the rows

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return asdict(self)


def make_report(
    models: Sequence[Path],
    reference: Path,
    text: str,
    *,
    options: ReportOptions | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Compare models with the full-precision HF folder `reference` on a text.

    With `cache`, a JSON file, finished rows are kept there and an interrupted report goes on.
    Raises NearfarError and CheckpointError: a model that cannot be opened, a text too short.
    """
    options = options or ReportOptions()
    if not models:
        raise NearfarError("a report needs at least one model beside the reference")
    windows = scored_windows(reference, text, options)
    names = options.answers_between
    between = control_ids(reference, names) if names else None
    for model in models:
        require_format(model)  # said before any of them is judged
    vocab_size = int(read_config(reference)["vocab_size"])
    rows = _Rows(cache, reference, (windows, options.answers_between))
    pending = [model for model in models if rows.get(model) is None]
    if pending:
        with ReferenceLogits(reference, windows, vocab_size, options) as (logits_file, _):
            for done, model in enumerate(pending, start=len(models) - len(pending) + 1):
                task = _task(model, windows, vocab_size, logits_file, options)
                try:
                    rows.put(model, evaluate(replace(task, between=between)))
                except NearfarError as error:  # the others' rows are not thrown away for it
                    rows.failed[str(model)] = str(error)
                if progress:
                    progress(done, len(models))
    return rows.report(models, reference)


def scored_windows(reference: Path, text: str, options: ReportOptions) -> list[list[int]]:
    """Return token ids of windows that follow each other through the text."""
    longest = int(read_config(reference)["max_position_embeddings"])
    if options.window_len > longest:
        raise NearfarError(
            f"the model's context is {longest} tokens, less than the window of "
            f"{options.window_len}; use a smaller window"
        )
    from quantize.calibration import encode

    start = Tokenizer(reference).encode("")  # BOS, where the model wants one
    tokens = encode(reference, text, parse_special=options.parse_special)[len(start) :]
    step = options.window_len - len(start)
    windows = [start + tokens[i : i + step] for i in range(0, len(tokens) - step + 1, step)]
    if not windows:
        raise NearfarError(
            f"the text has {len(tokens)} tokens, fewer than one window of {options.window_len}; "
            "give a longer text or a smaller window"
        )
    return windows[: options.num_windows]


class ReferenceLogits:
    """The reference's logits in a temporary file, and what it took to make them."""

    def __init__(
        self, reference: Path, windows: list[list[int]], vocab_size: int, options: ReportOptions
    ) -> None:
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(scratch_folder("report"))
        self._file = str(self._folder / "reference.f32")
        self._task = _task(reference, windows, vocab_size, self._file, options, write=True)

    def __enter__(self) -> tuple[str, EvaluationResult]:
        try:
            self._check_space()
            return self._file, evaluate(self._task)
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _check_space(self) -> None:
        task = self._task
        scored = len(task.windows[0]) - task.first_scored - 1
        needed = 4 * len(task.windows) * scored * task.vocab_size
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise NearfarError(
                f"the reference's logits need {readable_bytes(needed)} in {self._folder} but "
                f"{readable_bytes(free)} are free; use fewer windows, or set TMPDIR"
            )


def _task(
    model: Path,
    windows: list[list[int]],
    vocab_size: int,
    logits_file: str,
    options: ReportOptions,
    *,
    write: bool = False,
) -> EvaluationTask:
    return EvaluationTask(
        model=str(model.resolve()),
        windows=windows,
        first_scored=options.first_scored,
        logits_file=logits_file,
        vocab_size=vocab_size,
        write=write,
        num_threads=options.num_threads,
    )


class _Rows:
    """Finished rows, by what was judged on what; in a file where one is given."""

    def __init__(self, path: Path | None, reference: Path, scored: tuple[object, ...]) -> None:
        self._path = path
        self._on = hashlib.sha256(repr((_stamp(reference), *scored)).encode()).hexdigest()
        self._num_weights = _num_weights(reference)
        self._found: dict[str, Any] = {}
        self.failed: dict[str, str] = {}
        if path is not None and path.is_file():
            try:
                self._found = dict(parse_json(read_text(path, MAX_TEXT_BYTES)))
            except (OSError, ValueError, TypeError) as error:
                raise NearfarError(f"{path} is damaged ({cause(error)}); delete it") from None

    def _key(self, model: Path) -> str:
        return hashlib.sha256(f"{self._on}{_stamp(model)}".encode()).hexdigest()

    def get(self, model: Path) -> dict[str, Any] | None:
        row: dict[str, Any] | None = self._found.get(self._key(model))
        return row if row and row.keys() >= ReportRow.__dataclass_fields__.keys() else None

    def put(self, model: Path, verdict: EvaluationResult) -> None:
        assert verdict.divergence is not None, "only the reference has no divergence"
        figures = asdict(verdict.divergence)
        figures["perplexity_change"] = verdict.divergence.perplexity_change
        figures["perplexity_change_error"] = verdict.divergence.perplexity_change_error
        size = size_of(model)
        self._found[self._key(model)] = figures | {
            "model": str(model),
            "format": format_of(model),
            "size_bytes": size,
            "bits_per_weight": 8 * size / self._num_weights,
            "tokens_per_s": verdict.tokens_per_s,
            "load_s": verdict.load_s,
            "memory_bytes": verdict.memory_bytes,
        }
        if self._path is not None:
            atomic_write(self._path, json.dumps(self._found).encode(), mode=SHARED)

    def report(self, models: Sequence[Path], reference: Path) -> QuantizationReport:
        found = [row for model in models if (row := self.get(model)) is not None]
        if not found:
            raise NearfarError(next(iter(self.failed.values())))
        names = ReportRow.__dataclass_fields__
        return QuantizationReport(
            reference=str(reference),
            reference_bytes=size_of(reference),
            reference_perplexity=found[0]["reference_perplexity"],
            num_positions=found[0]["num_positions"],
            rows=tuple(ReportRow(**{n: row[n] for n in names}) for row in found),
            failed=tuple(self.failed.values()),
        )


def _stamp(path: Path) -> tuple[object, ...]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return tuple((str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files)


def _num_weights(reference: Path) -> int:
    """Return the reference's parameters, so that bits per weight compare across formats."""
    from math import prod

    return sum(prod(t.shape) for t in stored_tensors(reference).values())
