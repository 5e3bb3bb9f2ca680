"""What a person is told of why a side answered, and how sure it was."""

from __future__ import annotations

import pytest

from offload.reasons import sentence, sureness


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.97, "sure"), (0.7, "fairly sure"), (0.59, "unsure"), (0.0, "unsure")],
)
def test_a_person_is_told_words(probability: float, words: str) -> None:
    assert sureness(probability) == words


def test_an_answer_is_never_called_surer_than_its_probability() -> None:
    assert sentence("confident", 0.9) == "the near model was sure of its answer"
    assert sentence("confident", 0.7) == "the near model was fairly sure of its answer"
    assert sentence("confident") == sentence("confident", 0.9)
    assert sentence("offline", 0.7) == sentence("offline")
    assert sentence("courtesy") == sentence("small_talk")
