"""Labels without truth: whether the near answer says what the far model says, for `policy learn`.

Where two answers can be compared (numbers, options, JSON, a few words) they are; of the others
the far model is asked whether the near answer says the same. How often it says yes of an answer to
another question shows whether that judgement is worth anything. Labels of this kind are noisy: what
is right and the far answer wrong counts as wrong. docs/policy.md has the share that was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from backbone.errors import cause
from backbone.file_reading import MAX_TEXT_BYTES, read_text
from offload.engine import Engine
from offload.errors import RequestError
from offload.messages import Sampling
from offload.policy.fitting.answer_table import AnswerRow, AnswerTable, key_of
from offload.policy.fitting.ask_questions import QuestionOptions, ask_all
from offload.policy.fitting.labelled_questions import LabelledRow
from offload.policy.fitting.questions import Question, choice, numeric, word
from offload.policy.serving.answer_checks import final_answer
from offload.policy.serving.consistency import QuestionForm
from offload.thinking import split

NUM_SWAPPED = 20  # judgements of an answer to another question
MOST_FALSE_YES = 0.3  # of those: a judge that says yes more often is not believed
_SHORT = 3  # words of an answer that stands or falls as a whole
_MOST_CHARS = 4000  # of each text that the far model is shown to judge

_JUDGE = """Question:
{question}

Answer A:
{far}

Answer B:
{near}

Does answer B say the same as answer A, and is it as good? Reply with one word, yes or no."""


class PromptLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a file of prompts; other fields are let pass."""

    question: str = ""
    prompt: str = ""


def read_prompts(path: Path, *, budget: int | None = None) -> list[Question]:
    """Read prompts: JSON lines with `question` or `prompt`, or else one prompt a line.

    The first `budget` of them, each once. Raises RequestError where there is none.
    """
    try:
        lines = read_text(path, MAX_TEXT_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{path} cannot be read ({cause(error)}); name a text file with a prompt a line"
        ) from None
    found = dict.fromkeys(text for line in lines if (text := _prompt(line)))
    if not found:
        raise RequestError(
            f'{path} has no prompts; write one a line, or lines of {{"question": ...}}'
        )
    kept = list(found)[:budget]
    return [Question(id=str(number), question=text, answer="") for number, text in enumerate(kept)]


def _prompt(line: str) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        read = msgspec.json.decode(line, type=PromptLine)
    except msgspec.MsgspecError:
        return line.strip()
    return (read.question or read.prompt).strip()


def agrees(near: str, far: str, form: QuestionForm) -> bool | None:
    """Return whether two answers say the same; None where only a reader could tell."""
    near, far = split(near).answer, split(far).answer  # what was thought before is no answer
    wanted = final_answer(far)
    document = _json(wanted)
    if document is not None:
        return bool(document == _json(final_answer(near)))
    truth = Question(question="", answer=wanted)
    try:
        if form.options:
            return choice(near, truth)
        if form.asks_number:
            return numeric(near, truth)
    except RequestError:  # the far answer names no option, or has no number
        return None
    words = re.findall(r"[^\W_]+", wanted.lower())
    if not words or len(words) > _SHORT:
        return None
    return word(near, truth) or " ".join(words) in " ".join(re.findall(r"[^\W_]+", near.lower()))


def _json(text: str) -> Any:
    """Return the object or the list that a text is, or None."""
    inner = re.sub(r"^```\w*\n|\n```$", "", text.strip())
    if not inner.startswith(("{", "[")):
        return None
    try:
        return json.loads(inner)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True)
class FarLabels:
    """The rows to fit on, and how they came about.

    num_compared, num_judged: labels by comparison and by the far model's judgement. num_left_out:
    prompts without either. false_yes: share of yes where the near answer was to another question,
    None where nothing had to be judged. believed: whether the judgements were used.
    """

    questions: list[Question]
    rows: list[LabelledRow]
    num_compared: int
    num_judged: int
    num_left_out: int
    false_yes: float | None
    believed: bool


async def label_by_far(
    questions: Sequence[Question],
    near: AnswerTable,
    far: AnswerTable,
    cloud: Engine,
    judged: AnswerTable,
    how: QuestionOptions,
) -> FarLabels:
    """Label the near answers of two tables, which must hold their texts, by the far answers.

    What cannot be compared is judged by `cloud`, and kept in `judged`. Raises what it raises
    where it answers no more.
    """
    pairs = [
        (question, near.found[key], far.found[key])
        for question in questions
        if (key := key_of(question)) in near.found and key in far.found and far.found[key].text
    ]
    said = {q.id: agrees(a.text, b.text, QuestionForm.read(q.question)) for q, a, b in pairs}
    open_ended = [pair for pair in pairs if said[pair[0].id] is None]
    verdicts, false_yes = await _judge(open_ended, cloud, judged, how)
    believed = false_yes is None or false_yes <= MOST_FALSE_YES
    if believed:
        said |= verdicts
    kept = [(q, a, same) for q, a, _ in pairs if (same := said[q.id]) is not None]
    num_judged = len(verdicts) if believed else 0
    return FarLabels(
        questions=[q for q, _, _ in kept],
        rows=[
            LabelledRow(near=msgspec.structs.replace(a, right=same), far_right=True)
            for _, a, same in kept
        ],
        num_compared=len(kept) - num_judged,
        num_judged=num_judged,
        num_left_out=len(questions) - len(kept),
        false_yes=false_yes,
        believed=believed,
    )


async def _judge(
    pairs: Sequence[tuple[Question, AnswerRow, AnswerRow]],
    cloud: Engine,
    judged: AnswerTable,
    how: QuestionOptions,
) -> tuple[dict[str, bool], float | None]:
    """Return the far model's verdict by question, and its share of yes for swapped answers."""
    if not pairs:
        return {}, None
    verdicts = {q.id: _verdict_on(q, near.text, far.text) for q, near, far in pairs}
    others = [pairs[(place + 1) % len(pairs)][1] for place in range(len(pairs))]
    swapped = [
        _verdict_on(q, other.text, far.text)
        for (q, near, far), other in zip(pairs, others, strict=True)
        if other.text != near.text
    ][:NUM_SWAPPED]
    one_word = replace(how, grader=word, sampling=Sampling(max_tokens=4))
    await ask_all([*verdicts.values(), *swapped], cloud, judged, one_word)
    rows = {name: judged.found.get(key_of(each)) for name, each in verdicts.items()}
    yes = [row.right for each in swapped if (row := judged.found.get(key_of(each)))]
    false_yes = sum(yes) / len(yes) if yes else 1.0
    return {name: row.right for name, row in rows.items() if row}, false_yes


def _verdict_on(question: Question, near: str, far: str) -> Question:
    text = _JUDGE.format(
        question=question.question[:_MOST_CHARS],
        far=split(far).answer[:_MOST_CHARS],
        near=split(near).answer[:_MOST_CHARS],
    )
    return Question(id=question.id, question=text, answer="yes", kind="word")
