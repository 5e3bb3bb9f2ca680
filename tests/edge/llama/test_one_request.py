"""A model opened for one request takes the context that this needs, and no more."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge.llama.fit import DoesNotFit
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.errors import ContextLengthError, EngineStopped
from offload.messages import Delta, Finish, Request, Sampling
from tests.edge.conftest import write_tiny_gguf


@pytest.fixture(scope="module")
def long_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("long") / "long.gguf", context_len=4096)


def _ask(engine: LlamaEngine, request: Request) -> tuple[list[int], Finish]:
    *deltas, finish = engine.answer(request)
    assert isinstance(finish, Finish)
    return [t for d in deltas if isinstance(d, Delta) for t in d.token_ids], finish


def _request(length: int, max_tokens: int = 20) -> Request:
    return Request(prompt="x" * length, sampling=Sampling(max_tokens=max_tokens))


@pytest.mark.parametrize(("length", "expected"), [(5, 256), (250, 512), (2000, 2304), (4090, 4096)])
def test_the_context_is_as_long_as_the_request_needs(
    long_gguf: Path, length: int, expected: int
) -> None:
    request, options = _request(length), LlamaOptions(num_threads=1)
    engine = LlamaEngine(long_gguf, options=options, only=request)
    usual = LlamaEngine(long_gguf, options=options)
    assert engine.max_model_len == expected and usual.max_model_len == 4096
    assert _ask(engine, request)[0] == _ask(usual, request)[0]
    engine.close()
    usual.close()


def test_memory_that_the_end_of_the_process_frees_is_left_to_it(long_gguf: Path) -> None:
    request = _request(5)
    engine = LlamaEngine(long_gguf, only=request, frees_memory=False)
    _ask(engine, request)
    engine.close()
    engine.close()
    assert engine.model.is_open
    with pytest.raises(EngineStopped):
        _ask(engine, request)
    engine._owned.close()


def test_a_shorter_context_that_was_asked_for_stands(long_gguf: Path) -> None:
    options = LlamaOptions(num_threads=1, max_model_len=100)
    engine = LlamaEngine(long_gguf, options=options, only=_request(5))
    assert engine.max_model_len == 100
    engine.close()


def test_a_request_that_is_refused_is_refused_when_it_is_asked(long_gguf: Path) -> None:
    request = Request(prompt_token_ids=(1, 10**6), sampling=Sampling(max_tokens=2))
    engine = LlamaEngine(long_gguf, options=LlamaOptions(window=0), only=request)
    assert engine.max_model_len == 4096
    with pytest.raises(Exception, match="token"):
        _ask(engine, request)
    with pytest.raises(ContextLengthError):
        _ask(engine, _request(5000))
    engine.close()


def test_where_what_is_needed_does_not_fit_the_usual_is_made(
    long_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.llama import plan

    made: list[int] = []
    planned = plan.plan

    def scarce(model, options, free_bytes):  # type: ignore[no-untyped-def]
        made.append(options.max_model_len)
        if options.max_model_len:
            raise DoesNotFit("no room")
        return planned(model, options, free_bytes)

    monkeypatch.setattr(plan, "plan", scarce)
    engine = LlamaEngine(long_gguf, options=LlamaOptions(), only=_request(100))
    engine.close()
    assert made == [256, 0]


def test_the_log_stays_ours_when_the_package_is_imported_later(long_gguf: Path) -> None:
    import llama_cpp  # sets a log of its own

    from edge.llama.context import ContextParams
    from edge.llama.fit import measure

    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    assert measure(long_gguf, ContextParams(num_tokens=256)).cache_bytes > 0


def test_llama_cpp_is_loaded_without_the_package_around_it() -> None:
    import subprocess

    script = (
        "import sys; from edge.llama.library import llama; low = llama(); "
        "assert 'llama_cpp.llama' not in sys.modules and 'jinja2' not in sys.modules; "
        "import llama_cpp; assert llama_cpp.Llama and llama_cpp.llama_print_system_info; "
        "import llama_cpp.llama_cpp as again; assert again is low"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
