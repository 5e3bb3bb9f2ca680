"""Document index (SQLite): the passages of documents, found by their words and by their vectors.

By words is BM25 (Robertson and Zaragoza 2009), as SQLite's FTS5 has it, over stems of English; by
vectors is the cosine, of vectors from which the mean of the index is taken first: those of a model
that writes all point the same way (Ethayarajh, arXiv 1909.00512). Both orders are joined by
reciprocal ranks (Cormack and others, SIGIR 2009).
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backbone.errors import cause
from offload.documents.document import Document, Passage
from offload.documents.passages import passages
from offload.documents.words import asked_words, words_of
from offload.errors import SettingsError

OVERLAP = 150  # characters of a passage that stand in the one before, too
_MAX_WORDS = 64  # of a question: the rest of a long one says little of what is searched
_RRF = 60  # Cormack's constant
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE document (id INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE, mark TEXT NOT NULL);
CREATE TABLE passage (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document (id) ON DELETE CASCADE,
    name TEXT NOT NULL, page INTEGER NOT NULL, first_line INTEGER NOT NULL,
    last_line INTEGER NOT NULL, text TEXT NOT NULL
);
CREATE INDEX passage_by_document ON passage (document);
CREATE TABLE vector (
    passage INTEGER PRIMARY KEY REFERENCES passage (id) ON DELETE CASCADE,
    model TEXT NOT NULL, value BLOB NOT NULL
);
CREATE VIRTUAL TABLE words USING fts5 (content, tokenize='porter unicode61');
CREATE TRIGGER passage_gone AFTER DELETE ON passage BEGIN
    DELETE FROM words WHERE rowid = old.id;
END;
PRAGMA user_version = 1;
"""
_PASSAGE = "SELECT name, page, first_line, last_line, text FROM passage WHERE id = ?"


class DocumentIndex:
    """Index of documents in one SQLite file, or without a path in memory.

    `source` is by what a document is known here, as its path; `mark` is another once it changed.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open it, or make it. Raises SettingsError for a file that is none."""
        try:
            if path is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
            self._db = sqlite3.connect(
                path or ":memory:", isolation_level=None, timeout=10, check_same_thread=False
            )
            for pragma in ("foreign_keys=ON", "secure_delete=ON", "journal_mode=WAL"):
                self._db.execute(f"PRAGMA {pragma}")
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except (sqlite3.DatabaseError, OSError) as error:
            raise SettingsError(
                f"the index {path} cannot be opened ({cause(error)}); delete it, it is made anew"
            ) from None
        self._vectors: tuple[str, list[int], npt.NDArray[np.float32]] | None = None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def about(self) -> str:
        """What is indexed here, as the path of a folder; empty where it was not said."""
        row = self._db.execute("SELECT value FROM about WHERE name = 'about'").fetchone()
        return str(row[0]) if row else ""

    @about.setter
    def about(self, what: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO about VALUES ('about', ?)", (what,))

    def marks(self) -> dict[str, str]:
        """Return the mark of each document by its source."""
        return dict(self._db.execute("SELECT source, mark FROM document"))

    @property
    def num_passages(self) -> int:
        """How many passages there are."""
        return int(self._db.execute("SELECT count(*) FROM passage").fetchone()[0])

    def add(self, document: Document, source: str, mark: str = "") -> None:
        """Take a document in, in the place of what was known by its source."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("DELETE FROM document WHERE source = ?", (source,))
            made = self._db.execute(
                "INSERT INTO document (source, mark) VALUES (?, ?)", (source, mark)
            )
            for each in passages(document, overlap=OVERLAP):
                self._insert(made.lastrowid, source, each)
        self._vectors = None

    def _insert(self, document: int | None, source: str, passage: Passage) -> None:
        row = (passage.page, passage.first_line, passage.last_line, passage.text)
        made = self._db.execute(
            "INSERT INTO passage (document, name, page, first_line, last_line, text) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (document, source, *row),
        )
        number = made.lastrowid
        # What a file is called says what it is about.
        words = " ".join(words_of(f"{source} {passage.text}"))
        self._db.execute("INSERT INTO words (rowid, content) VALUES (?, ?)", (number, words))

    def remove(self, sources: Iterable[str]) -> None:
        """Take documents out; their text is overwritten."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for source in sources:
                self._db.execute("DELETE FROM document WHERE source = ?", (source,))
            self._db.execute("INSERT INTO words (words) VALUES ('optimize')")
        self._vectors = None

    def without_vector(self, model: str) -> list[tuple[int, str]]:
        """Return the passages that have no vector by this model, each its id and its text."""
        return self._db.execute(
            "SELECT id, text FROM passage WHERE id NOT IN "
            "(SELECT passage FROM vector WHERE model = ?) ORDER BY id",
            (model,),
        ).fetchall()

    def keep_vectors(self, model: str, vectors: Iterable[tuple[int, Sequence[float]]]) -> None:
        """Keep vectors of unit length, each [hidden_size], by the ids of their passages."""
        rows = [(each, model, np.asarray(v, np.float32).tobytes()) for each, v in vectors]
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", rows)
        self._vectors = None

    def search(
        self, question: str, limit: int, *, model: str = "", vector: Sequence[float] = ()
    ) -> list[Passage]:
        """Return the passages that may answer, the likeliest first.

        By words alone, and with the question's `vector` by a `model` by both. Where the words find
        fewer, the first passages follow: what a document is about stands at its beginning.
        """
        orders = [self.by_words(question, 4 * limit)]
        if len(vector):
            orders.append(self.by_vector(vector, model, 4 * limit))
        found = joined(orders)[:limit]
        if len(found) < limit:
            rest = self._db.execute("SELECT id FROM passage ORDER BY id LIMIT ?", (limit,))
            found += [each for (each,) in rest if each not in found]
        return [self.passage(each) for each in found[:limit]]

    def by_words(self, question: str, limit: int) -> list[int]:
        """Return the ids of the passages by BM25, the best first."""
        words = asked_words(question)[:_MAX_WORDS]
        if not words:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        rows = self._db.execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?",
            (asked, limit),
        )
        return [each for (each,) in rows]

    def by_vector(
        self, vector: Sequence[float], model: str, limit: int, *, centred: bool = True
    ) -> list[int]:
        """Return the ids of the passages by the cosine to a vector, the nearest first.

        `centred` takes the mean of all from each first.
        """
        ids, matrix = self._matrix(model)
        if not ids or matrix.shape[1] != len(vector):
            return []
        mean = matrix.mean(axis=0) if centred else np.zeros(matrix.shape[1], np.float32)
        apart = matrix - mean  # [num_passages, hidden_size]
        scores = apart @ (np.asarray(vector, np.float32) - mean)
        scores /= np.maximum(np.linalg.norm(apart, axis=1), 1e-12)
        return [ids[each] for each in np.argsort(-scores, kind="stable")[:limit]]

    def _matrix(self, model: str) -> tuple[list[int], npt.NDArray[np.float32]]:
        if self._vectors is None or self._vectors[0] != model:
            rows = self._db.execute(
                "SELECT passage, value FROM vector WHERE model = ? ORDER BY passage", (model,)
            ).fetchall()
            matrix = np.frombuffer(b"".join(value for _, value in rows), np.float32)
            matrix = matrix.reshape(len(rows), -1) if rows else matrix.reshape(0, 0)
            self._vectors = (model, [each for each, _ in rows], matrix)
        return self._vectors[1], self._vectors[2]

    def passage(self, number: int) -> Passage:
        """Return the passage of this id."""
        name, page, first, last, text = self._db.execute(_PASSAGE, (number,)).fetchone()
        return Passage(name=name, page=page, first_line=first, last_line=last, text=text)


def joined(orders: Iterable[Sequence[int]]) -> list[int]:
    """Return one order of several, by the sums of their reciprocal ranks."""
    scores: dict[int, float] = defaultdict(float)
    for order in orders:
        for rank, each in enumerate(order, 1):
            scores[each] += 1.0 / (_RRF + rank)
    return sorted(scores, key=lambda each: (-scores[each], each))
