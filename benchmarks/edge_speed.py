"""Rows of the edge's benchmark that are about tokens per second."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import edge_sides as sides
from benchmarks.edge_model import random_model
from edge.device.cpu_load import Disturbance, num_usable_cores
from edge.llama.runtime import LlamaEngine
from offload.messages import Request, Sampling

Row = dict[str, Any]


def bare(quick: bool) -> Row:
    """Our whole engine beside a loop of llama_decode and argmax, with as many threads."""
    path, threads = random_model(), num_usable_cores()
    prompt_len, num_tokens = (64, 16) if quick else (384, 64)
    ours = sides.engine(
        path,
        num_threads=threads,
        enable_prefix_caching=False,
        window=0,
        flash_attention=True,  # as theirs has it
    )
    theirs = sides.Bare(path, num_threads=threads)
    text = "bottles " * prompt_len
    prompt = ours.prompt_tokens(Request(prompt=text))[:prompt_len]
    text = ours.detokenize(prompt).decode()
    request = Request(prompt=text, sampling=Sampling(max_tokens=num_tokens))
    assert ours.prompt_tokens(request) == prompt

    def our_rates() -> tuple[float, float]:
        # To the first token, tokenizing and choosing included, since theirs is timed so.
        first, rate, _ = sides.our_answer(ours, request)
        return len(prompt) / first, rate

    watch = Disturbance()
    pairs = _in_pairs(1 if quick else 6, our_rates, lambda: theirs.run(prompt, num_tokens))
    busy = watch.busy_cores()
    ours.close()
    theirs.close()
    prefill, decode = zip(*(zip(*pair, strict=True) for pair in pairs), strict=True)
    found = {"prefill": list(prefill), "decode": list(decode)}
    # What changes on the machine meets both of a pair, so the pairs are compared, not the sums.
    ratios = {
        name: statistics.median(ours / theirs for ours, theirs in rates)
        for name, rates in found.items()
    }
    middle = {
        name: [statistics.median(side) for side in zip(*rates, strict=True)]
        for name, rates in found.items()
    }
    return {
        "ratio": min(ratios.values()),
        "ours": middle["decode"][0],
        "theirs": middle["decode"][1],
        "unit": "tokens/s of decode",
        "prefill_ratio": ratios["prefill"],
        "decode_ratio": ratios["decode"],
        "prefill_ours": middle["prefill"][0],
        "prefill_theirs": middle["prefill"][1],
        "pairs": found,
        "others_busy_cores": round(busy, 2),
        "num_threads": threads,
    }


Rates = tuple[float, float]


def _in_pairs(
    rounds: int, ours: Callable[[], Rates], theirs: Callable[[], Rates]
) -> list[tuple[Rates, Rates]]:
    """Run both sides one behind the other, each first in half of the rounds."""
    found = []
    for number in range(rounds):
        if number % 2 == 0:
            our_rates = ours()
            found.append((our_rates, theirs()))
        else:
            their_rates = theirs()
            found.append((ours(), their_rates))
    return found


def chat_idle(quick: bool) -> Row:
    """A streamed chat on an idle machine, beside llama-cpp-python's defaults."""
    return chats(random_model(), quick, num_threads=None, num_busy=0)


def chat_busy(quick: bool) -> Row:
    """The same with one core busy, beside llama-cpp-python told to use all cores."""
    return chats(random_model(), quick, num_threads=num_usable_cores(), num_busy=1)


def chats(path: Path, quick: bool, *, num_threads: int | None, num_busy: int) -> Row:
    """Return the row of a streamed chat beside llama_cpp.Llama's, with others beside them."""
    num_tokens = 12 if quick else 64
    ours = sides.engine(path)
    theirs = sides.library(path, num_threads=num_threads)
    with sides.busy_cores(num_busy):
        our_rate, their_rate = sides.by_turns(
            1 if quick else 3,
            lambda: sides.our_answer(ours, sides.chat_request(num_tokens))[1],
            lambda: sides.library_chat(theirs, num_tokens)[1],
        )
    ours.close()
    theirs.close()
    return {
        "ratio": our_rate / their_rate,
        "ours": our_rate,
        "theirs": their_rate,
        "unit": "tokens/s",
        "their_threads": num_threads or max(1, num_usable_cores() // 2),
    }


class Load(NamedTuple):
    """Cores that others keep busy, on and off for so many seconds, and the answers beside them."""

    num_cores: int
    on_s: float
    off_s: float
    num_tokens: int  # long enough for one whole turn of the load


LOADS = {
    "idle": Load(0, 0.0, 0.0, 96),
    "one core busy": Load(1, 0.0, 0.0, 96),
    "every core busy": Load(num_usable_cores(), 0.0, 0.0, 24),  # too many threads crawl
    "one core busy 3 s in 6": Load(1, 3.0, 3.0, 160),
}
_ROUNDS = 3  # what a load does to one answer is chance


def governor(quick: bool) -> Row:
    """The governor beside every fixed number of threads, under four loads; the worst counts."""
    return governed(random_model(), quick)


def governed(path: Path, quick: bool) -> Row:
    """Return the row of the governor for a model."""
    fixed = range(1, num_usable_cores() + 1)
    table = {}
    for name, load in LOADS.items():
        with sides.busy_cores(load.num_cores, on_s=load.on_s, off_s=load.off_s):
            governed, *rates = sides.by_turns(
                1 if quick else _ROUNDS,
                *(
                    lambda n=n, load=load: _rate(  # type: ignore[misc]
                        path, n, 12 if quick else load.num_tokens
                    )
                    for n in (0, *fixed)
                ),
            )
        table[name] = {
            "ratio": governed / max(rates),
            "governed": governed,
            **{f"{n} threads": rate for n, rate in zip(fixed, rates, strict=True)},
        }
    worst = min(table.values(), key=lambda row: row["ratio"])
    return {
        "ratio": worst["ratio"],
        "ours": worst["governed"],
        "theirs": worst["governed"] / worst["ratio"],
        "unit": "tokens/s",
        "loads": table,
    }


def _rate(path: Path, num_threads: int, num_tokens: int) -> float:
    ours: LlamaEngine = sides.engine(path, num_threads=num_threads)
    rate = sides.our_answer(ours, sides.chat_request(num_tokens))[1]
    ours.close()
    return rate


def clients(quick: bool) -> Row:
    """Four clients at once over HTTP, beside llama_cpp.server."""
    path, num_tokens = random_model(), 8 if quick else 40
    rates = []
    with tempfile.TemporaryDirectory() as home:
        for command in (sides.our_server(path, Path(home)), sides.library_server(path)):
            with sides.server(*command) as address:
                rates.append(sides.total_rate(address, 4, num_tokens))
    ours, theirs = rates
    return {"ratio": ours / theirs, "ours": ours, "theirs": theirs, "unit": "tokens/s of all"}
