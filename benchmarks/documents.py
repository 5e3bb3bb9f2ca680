"""Retrieval of planted facts: which passages of a long document are found by words and by vectors.

    python benchmarks/documents.py --text wikitext2_test.txt --models A.gguf B.gguf

Facts are planted in paragraphs of wikitext, each a passage. A question says a fact in its words,
in others with its name, or without any of its words. Recall at 5 and the mean reciprocal rank; what
is chosen is chosen on the first half of the facts, and the second is reported. The mean of all
vectors is taken away first, or not ("raw").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge.llama.options import LlamaOptions  # noqa: E402
from edge.llama.runtime import LlamaEngine  # noqa: E402
from offload.documents.document import Document, Page  # noqa: E402
from offload.documents.index import DocumentIndex, joined  # noqa: E402

RESULT = ROOT / "benchmarks" / "documents.json"
AT = 5
# What is planted, a question in its words, and one in others.
FORMS = (
    (
        "The lighthouse of {name} was painted {colour} in {year}.",
        "When was the lighthouse of {name} painted?",
        "In which year did the beacon at {name} get its coat of colour?",
    ),
    (
        "The fee for a berth in {name} is {year} crowns.",
        "What is the fee for a berth in {name}?",
        "How much does mooring a boat at {name} cost?",
    ),
    (
        "The physician of {name} keeps {colour} bees behind the chapel.",
        "What does the physician of {name} keep behind the chapel?",
        "Which animals does the doctor in {name} own?",
    ),
    (
        "A train leaves {name} for the coast at {year} hours each Sunday.",
        "When does a train leave {name} for the coast?",
        "At what time is the weekend railway departure to the sea from {name}?",
    ),
    (
        "The bridge of {name} collapsed after the flood of {year}.",
        "What happened to the bridge of {name} after the flood?",
        "Why can nobody cross the river on foot any longer near {name}?",
    ),
)
# A fact, and a question without any of its words: what only a meaning can find.
MEANT = (
    ("The physician keeps bees behind the chapel", "Which insects does the doctor own?"),
    ("The ferry sank in a storm at dawn", "What boat went down early one day?"),
    ("Her brother repairs violins in a cellar", "Who mends musical instruments?"),
    ("The mayor was sent to jail for bribes", "Which politician went to prison for corruption?"),
    ("Bread was sold at a penny a loaf", "What was the price of food from the baker?"),
    ("The old bridge collapsed after heavy rain", "Why can nobody cross the river any more?"),
    ("A wolf killed nine sheep near the mill", "What animal attacked the flock?"),
    ("The pupils wrote with chalk on slate", "How did children at school take notes?"),
    ("The widow sold her farm to pay debts", "Why did a woman give up her land?"),
    ("Snow closed the mountain pass until May", "When did the road over the Alps open again?"),
    ("The clock of the town hall runs backwards", "What is odd about how time is shown there?"),
    ("The singer lost his voice in Vienna", "Where did the tenor become unable to perform?"),
    ("Two miners were buried when the tunnel fell", "How many workers died underground?"),
    ("The king was afraid of cats", "Which pets frightened the monarch?"),
    ("The novel was burned by its author", "What book did the writer destroy?"),
    ("Wine froze in the barrels that winter", "How cold was it in the vineyards that year?"),
    ("The judge fell asleep during the trial", "Who slept in court?"),
    ("The well was poisoned by a neighbour", "Why could the water not be drunk?"),
    ("The painter sold a portrait for a horse", "What did the artist get for his picture?"),
    ("The twins married on the same day", "Which siblings had one wedding date?"),
)
PARTS = ("Alder", "Brin", "Cold", "Dun", "Elm", "Fern", "Grey", "Holm", "Iver", "Kel", "Lund")
ENDS = ("mouth", "wick", "haven", "stead", "ford", "moor", "by", "holt", "ness", "thorpe")
SEED = 7
KINDS = ("its words", "its name", "no word")  # what a question shares with its fact
COLOURS = ("green", "white", "ochre", "scarlet", "violet")


def planted(text: str, wish: argparse.Namespace) -> tuple[Document, list[dict[str, Any]]]:
    """Return a document of paragraphs with facts in some of them, and what is asked of each."""
    draw = random.Random(SEED)
    rows = [line.strip() for line in text.split("\n")]
    rows = [line[:900] for line in rows if len(line) > 400 and not line.startswith("=")]
    paragraphs = draw.sample(rows, wish.passages)
    names = draw.sample([part + end for part in PARTS for end in ENDS], wish.facts)
    places = draw.sample(range(wish.passages), wish.facts + len(MEANT))
    facts = []
    for n, at in enumerate(places[: wish.facts]):
        form, said, other = FORMS[n % len(FORMS)]
        words = {"name": names[n], "colour": draw.choice(COLOURS), "year": draw.randint(1100, 1999)}
        _plant(paragraphs, at, form.format(**words).rstrip("."))
        asked = {"its words": said.format(**words), "its name": other.format(**words)}
        facts.append({"page": at + 1, **asked})
    for at, (fact, asked_of) in zip(places[wish.facts :], MEANT, strict=True):
        _plant(paragraphs, at, fact)
        facts.append({"page": at + 1, "no word": asked_of})
    draw.shuffle(facts)
    pages = tuple(Page(number=n, text=text) for n, text in enumerate(paragraphs, 1))
    return Document(name="wiki", kind="text", pages=pages), facts


def _plant(paragraphs: list[str], at: int, fact: str) -> None:
    sentences = paragraphs[at].split(". ")
    sentences.insert(len(sentences) // 2, fact)
    paragraphs[at] = ". ".join(sentences)


def measured(ranks: Sequence[int]) -> dict[str, float]:
    """Return recall at AT and the mean reciprocal rank; rank 0 is not found."""
    found = [rank for rank in ranks if rank]
    return {
        "recall": round(sum(rank <= AT for rank in found) / len(ranks), 3),
        "reciprocal_rank": round(sum(1 / rank for rank in found) / len(ranks), 3),
    }


def rank_of(order: Sequence[int], page: int, pages: dict[int, int]) -> int:
    return next((at for at, each in enumerate(order, 1) if pages[each] == page), 0)


async def vectors_of(model: Path, texts: Sequence[str]) -> tuple[list[list[float]], float]:
    """Return the vectors by a model, and the seconds of each text."""
    engine = LlamaEngine(model, options=LlamaOptions(num_threads=1, max_model_len=2048))
    started = time.perf_counter()
    try:
        return await engine.embed(texts), (time.perf_counter() - started) / len(texts)
    finally:
        await engine.aclose()


def judged(
    index: DocumentIndex, facts: Sequence[dict[str, Any]], model: str, asked: dict[str, list[float]]
) -> dict[str, Any]:
    """Return every way's figures on facts; without a model by words alone."""
    pages = {number: index.passage(number).page for number in range(1, index.num_passages + 1)}
    table: dict[str, Any] = {}
    for kind in KINDS:
        ranks: dict[str, list[int]] = {}
        for fact in (each for each in facts if kind in each):
            question = fact[kind]
            orders = {"words": index.by_words(question, 64)}
            if model:
                orders["vectors"] = index.by_vector(asked[question], model, 64)
                orders["raw vectors"] = index.by_vector(asked[question], model, 64, centred=False)
                orders["both"] = joined([orders["words"], orders["vectors"]])
            for way, order in orders.items():
                ranks.setdefault(way, []).append(rank_of(order, fact["page"], pages))
        table[kind] = {way: measured(each) for way, each in ranks.items()}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--passages", type=int, default=120)
    parser.add_argument("--facts", type=int, default=60)
    wish = parser.parse_args()
    document, facts = planted(wish.text.read_text(encoding="utf-8"), wish)
    index = DocumentIndex()
    index.add(document, "wiki")
    halves = {"chosen on": facts[: len(facts) // 2], "reported on": facts[len(facts) // 2 :]}
    result: dict[str, Any] = {
        "text": wish.text.name,
        "passages": index.num_passages,
        "facts": {name: len(half) for name, half in halves.items()},
        "at": AT,
        "machine": f"{platform.machine()}, 1 thread",
        "models": {"words alone": {n: judged(index, half, "", {}) for n, half in halves.items()}},
    }
    questions = [fact[kind] for fact in facts for kind in KINDS if kind in fact]
    for path in wish.models:
        missing = index.without_vector(path.name)
        texts = [text for _, text in missing] + questions
        vectors, seconds = asyncio.run(vectors_of(path, texts))
        index.keep_vectors(path.name, zip([n for n, _ in missing], vectors, strict=False))
        asked = dict(zip(questions, vectors[len(missing) :], strict=True))
        rows = {n: judged(index, half, path.name, asked) for n, half in halves.items()}
        result["models"][path.stem] = {**rows, "seconds_a_text": round(seconds, 3)}
        print(path.stem, json.dumps(rows["reported on"], indent=1), flush=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
