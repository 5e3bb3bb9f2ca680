"""Keeping what a prompt's end attends to (edge.kv_keep): its loss on real text, and its gain.

    python -m benchmarks.kv_keep FOLDER TEXT [--json OUT] [--windows N]

Each window of the text is read once into a ring of 8 bits. Then the tokens behind it are written by
teacher forcing, with all that is stored, with the most attended tokens, and with as many of the
newest; the loss is the mean KL divergence from the first, in nats, and the change of the text's own
log-probability. A second row hides a number early in the text and asks for it at the end. The time
of a step is processor time of one thread, by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbone.network import Network
from backbone.tokenizer import Tokenizer
from engine.torch.kv.prompt_selection import OBSERVERS
from engine.torch.kv.ring_cache import Ring, RingTables
from engine.torch.kv.ring_slots import RingSlot
from engine.window import Pins
from quantize.loading import read_network
from quantize.model_files import FolderFiles

PROMPT, WRITTEN, KEPT, CHUNK, PIECE, STEPS = 2000, 64, (1024, 512, 256, 128), 256, 8, 10
NO_PINS = Pins(num_first=0, last_start=0, last_end=0)
CODES, DEPTHS = 8, (0.1, 0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Model:
    """The network, its tokenizer, and tables that all rings share."""

    network: Network
    tokenizer: Tokenizer
    tables: RingTables

    def slot(self, keep: int) -> RingSlot:
        """Return an empty ring that keeps so many stored tokens of a prompt."""
        config, limit = self.network.config, self.tables.limit
        ring = Ring(config, limit=limit, bits=(8, 8), chunk=CHUNK, tables=self.tables)
        return RingSlot(ring, sliding=True, keep=keep)

    def read(self, slot: RingSlot, tokens: list[int]) -> Tensor:
        """Read a prompt and return the logits behind it, [1, vocab]."""
        for start in range(0, len(tokens), CHUNK):
            ids = torch.tensor(tokens[start : start + CHUNK])
            end = start + len(ids)
            assert slot.make_room(len(ids), NO_PINS) and slot.selection is not None
            slot.selection.watch(max(0, end - max(start, len(tokens) - OBSERVERS)))
            hidden = self.network(ids, torch.zeros_like(ids), slot.ring.attend)
            slot.hold(ids.tolist())
        assert slot.selection is not None
        slot.selection.watch(0)
        found: Tensor = self.network.logits(hidden[-1:])
        return found

    def write(self, slot: RingSlot, tokens: list[int], first: Tensor) -> Tensor:
        """Return the log-probabilities [tokens, vocab] of tokens that are given."""
        found = [first]
        for start in range(0, len(tokens) - 1, PIECE):
            ids = torch.tensor(tokens[start : min(start + PIECE, len(tokens) - 1)])
            assert slot.make_room(len(ids), NO_PINS)
            hidden = self.network(ids, torch.zeros_like(ids), slot.ring.attend)
            slot.hold(ids.tolist())
            found.append(self.network.logits(hidden))
        return torch.cat(found).log_softmax(-1)

    def say(self, slot: RingSlot, first: Tensor, count: int) -> str:
        """Return so many tokens that are likeliest one after another."""
        said = [int(first.argmax())]
        while len(said) < count:
            ids = torch.tensor(said[-1:])
            assert slot.make_room(1, NO_PINS)
            hidden = self.network(ids, torch.zeros_like(ids), slot.ring.attend)
            slot.hold(said[-1:])
            said.append(int(self.network.logits(hidden).argmax()))
        return self.tokenizer.decode(said)


def selected(model: Model, full: RingSlot, keep: int, *, newest: bool = False) -> RingSlot:
    """Return a copy of what was read, of which so many stored tokens were kept."""
    slot = model.slot(keep)
    slot.copy(full)
    assert slot.selection is not None and full.selection is not None
    weights = full.selection.weights
    assert weights is not None, "the end of the prompt was watched"
    slot.selection.weights = torch.arange(weights.shape[-1]).expand_as(weights).float()
    if not newest:
        slot.selection.weights = weights
    slot.selection.select()
    return slot


def step_s(model: Model, slot: RingSlot) -> float:
    """Return the seconds of the processor for a token whose keys are not held."""
    ids = torch.tensor([7])
    began = time.thread_time()
    model.network.logits(model.network(ids, torch.zeros_like(ids), slot.ring.attend))
    return time.thread_time() - began


def loss_rows(model: Model, tokens: list[int], num_windows: int) -> dict[str, Any]:
    """Return each way's divergence from what is written with all, and its change of the text's
    own likelihood, with their standard errors over windows.
    """
    size = PROMPT + WRITTEN
    told: dict[str, list[tuple[float, float]]] = {}
    for at in range(num_windows):
        window = tokens[at * size : (at + 1) * size]
        prompt, rest = window[:PROMPT], window[PROMPT:]
        full = model.slot(PROMPT)
        first = model.read(full, prompt)
        whole = model.slot(PROMPT)
        whole.copy(full)
        exact = model.write(whole, rest, first)
        for keep in KEPT:
            for name in (f"attended {keep}", f"newest {keep}"):
                slot = selected(model, full, keep, newest=name.startswith("newest"))
                found = model.write(slot, rest, first)
                kl = (exact.exp() * (exact - found)).sum(-1).mean()
                own = torch.tensor(rest).unsqueeze(1)
                more = (exact.gather(1, own) - found.gather(1, own)).mean()
                told.setdefault(name, []).append((float(kl), float(more)))
        print(f"window {at + 1} of {num_windows}", flush=True)
    return {name: _of_windows(rows) for name, rows in told.items()}


def _of_windows(rows: list[tuple[float, float]]) -> dict[str, float]:
    kl, more = zip(*rows, strict=True)
    error = statistics.stdev(kl) / len(kl) ** 0.5 if len(kl) > 1 else 0.0
    return {
        "kl": round(statistics.mean(kl), 4),
        "kl_error": round(error, 4),
        "nats_a_token_more": round(statistics.mean(more), 4),
    }


def found_rows(model: Model, tokens: list[int]) -> dict[str, int]:
    """Return how often a number that was hidden in the text is said, of CODES questions."""
    chance = random.Random(0)
    told: dict[str, int] = {}
    for number in range(CODES):
        code = str(chance.randint(10_000, 99_999))
        text = model.tokenizer.decode(tokens[number * 1800 : (number + 1) * 1800])
        cut = text.find(" ", int(len(text) * DEPTHS[number % len(DEPTHS)]))
        hidden = f"{text[:cut]} The secret code of the archive is {code}. {text[cut:]}"
        question = "Question: What is the secret code of the archive?"
        asked = f"{hidden}\n\n{question}\nAnswer: The code is"
        prompt = model.tokenizer.encode_text(asked)
        full = model.slot(PROMPT)
        first = model.read(full, prompt)
        ways = {"all": (len(prompt), False)}
        for keep in KEPT:
            ways |= {f"attended {keep}": (keep, False), f"newest {keep}": (keep, True)}
        for name, (keep, newest) in ways.items():
            slot = selected(model, full, keep, newest=newest)
            told[name] = told.get(name, 0) + (code in model.say(slot, first, 10).replace(" ", ""))
    return told


def speed_rows(model: Model, tokens: list[int]) -> dict[str, Any]:
    """Return the time of a step behind a prompt, with all and with what was kept."""
    full = model.slot(PROMPT)
    model.read(full, tokens[:PROMPT])
    slots = {"all": full} | {f"attended {keep}": selected(model, full, keep) for keep in KEPT}
    took: dict[str, list[float]] = {name: [] for name in slots}
    for _ in range(STEPS):
        for name, slot in slots.items():
            took[name].append(step_s(model, slot))
    median = {name: statistics.median(each) for name, each in took.items()}
    return {
        name: {"ms": round(value * 1000, 1), "ratio": round(median["all"] / value, 2)}
        for name, value in median.items()
    }


def main() -> None:
    """Measure a folder and keep the report where told."""
    parser = argparse.ArgumentParser(prog="benchmarks.kv_keep")
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = read_network(FolderFiles(args.folder), dtype=torch.float32)
    limit = PROMPT + WRITTEN + CHUNK
    tables = RingTables(network.config, limit, torch.device("cpu"))
    model = Model(network, Tokenizer(args.folder), tables)
    tokens = model.tokenizer.encode_text(args.text.read_text(encoding="utf-8"))
    with torch.inference_mode():
        rows = {
            "step": speed_rows(model, tokens),
            "loss": loss_rows(model, tokens, args.windows),
            "found": {"of": CODES, **found_rows(model, tokens)},
        }
    known = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    report = {
        **known,
        args.folder.name: {
            "prompt_tokens": PROMPT,
            "written_tokens": WRITTEN,
            "windows": args.windows,
            "rows": rows,
            "load_average": round(os.getloadavg()[0], 1),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "torch": torch.__version__,
        },
    }
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
