"""Training text as token shards: conversations packed end to end, made ahead of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from scripts.pair.bank import training_examples
from scripts.pair.vocabulary import ASSISTANT, END, SYSTEM, USER

SHARD_EXAMPLES = 60_000
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are nearfar's assistant.",
    "Answer briefly.",
    "Be concise and correct.",
)


def shard(
    tokenizer: Tokenizer, *, worked: bool, seed: int, folder: Path
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the shard of this seed as token ids and whether each is to be learnt, [tokens]."""
    path = folder / f"{'worked' if worked else 'direct'}-{seed:04d}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokens, learnt = _make(tokenizer, worked, seed)
        np.savez(path, tokens=tokens, learnt=learnt)
    with np.load(path, allow_pickle=False) as stored:
        return stored["tokens"], stored["learnt"]


def _make(
    tokenizer: Tokenizer, worked: bool, seed: int
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    examples = list(islice(training_examples(seed), SHARD_EXAMPLES))
    questions = tokenizer.encode_batch([e.question for e in examples], add_special_tokens=False)
    answers = tokenizer.encode_batch(
        [e.worked() if worked else e.direct() for e in examples], add_special_tokens=False
    )
    systems = [tokenizer.encode(text, add_special_tokens=False).ids for text in _SYSTEM_PROMPTS]
    end, user, assistant, system = map(_id_in(tokenizer), (END, USER, ASSISTANT, SYSTEM))
    tokens: list[int] = []
    learnt: list[bool] = []
    random = Random(seed)
    for question, answer in zip(questions, answers, strict=True):
        head = [system, *random.choice(systems)] if random.random() < 0.05 else []
        head += [user, *question.ids, assistant]
        tail = [*answer.ids, end]
        tokens += head + tail
        learnt += [False] * len(head) + [True] * len(tail)
    return np.array(tokens, np.uint16), np.array(learnt, np.bool_)


def _id_in(tokenizer: Tokenizer) -> Callable[[str], int]:
    def find(token: str) -> int:
        found = tokenizer.token_to_id(token)
        assert found is not None, f"the tokenizer was trained with {token}"
        return int(found)

    return find


def batches(
    tokenizer: Tokenizer, *, worked: bool, batch_size: int, seq_len: int, folder: Path, start: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (inputs, targets) [batch_size, seq_len] from batch number `start`; -100 is not learnt.

    Rows are cut from a shard in shuffled order, so a row may begin inside a conversation.
    """
    number, seed = 0, 1000
    while True:
        tokens, learnt = shard(tokenizer, worked=worked, seed=seed, folder=folder)
        rows = (len(tokens) - 1) // seq_len
        order = np.random.default_rng(seed).permutation(rows)
        for first in range(0, rows - batch_size + 1, batch_size):
            number += 1
            if number <= start:
                continue
            spans = [
                slice(r * seq_len, r * seq_len + seq_len + 1) for r in order[first:][:batch_size]
            ]
            whole = np.stack([tokens[span] for span in spans]).astype(np.int64)
            mask = np.stack([learnt[span] for span in spans])
            yield whole[:, :-1], np.where(mask[:, 1:], whole[:, 1:], -100)
        seed += 1
