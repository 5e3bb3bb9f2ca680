from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.policy.serving.answer_checks import NUM_MEASURES, answer_measures, sums
from offload.policy.serving.features import (
    NUM_BUCKETS,
    ReadText,
    SparseRows,
    TfIdf,
    char_grams,
    word_grams,
)
from offload.policy.serving.prompt_measures import as_numbers, form_measures, quantity_measures

TEXTS = ["the cat sat", "the cat ran", "a dog ran far", "the dog sat"]


def test_the_same_text_has_the_same_buckets_on_every_machine() -> None:
    assert word_grams(ReadText("Hello, world")).tolist() == [37508, 250557, 83850, 252359, 209587]
    assert char_grams(ReadText("near")).tolist() == [137418, 199622, 236567]


@given(st.text(max_size=200))
@settings(max_examples=60)
def test_any_text_has_finite_measures_and_buckets_in_range(text: str) -> None:
    reading = ReadText(text)
    for grams in (word_grams(reading), char_grams(reading)):
        assert ((grams >= 0) & (grams < NUM_BUCKETS)).all()
    measures = [form_measures(reading), quantity_measures(reading)]
    measures.append(answer_measures(ReadText("1 and 2"), reading))
    assert [len(each) for each in measures] == [20, 17, NUM_MEASURES]
    assert all(np.isfinite(each).all() for each in measures)


def test_case_and_white_space_do_not_change_character_grams() -> None:
    assert np.array_equal(char_grams(ReadText("A  b\nC d")), char_grams(ReadText("a b c d")))


def test_a_tfidf_row_has_length_one_and_rare_grams_weigh_more() -> None:
    tfidf = TfIdf.fit("words", [ReadText(text) for text in TEXTS], min_rows=1)
    columns, values = tfidf.row(ReadText("the far"))
    assert values @ values == pytest.approx(1.0)
    assert columns.tolist() == sorted(columns.tolist())
    weight = dict(zip(columns.tolist(), values.tolist(), strict=True))
    places = [int(np.searchsorted(tfidf.buckets, each)) for each in word_grams(ReadText("the far"))]
    assert weight[places[1]] > weight[places[0]]


def test_a_text_of_unknown_words_has_an_empty_row() -> None:
    tfidf = TfIdf.fit("words", [ReadText(text) for text in TEXTS])
    columns, values = tfidf.row(ReadText("zyzzyva qwerty"))
    assert len(columns) == len(values) == 0


def test_sparse_products_equal_dense_ones() -> None:
    generator = np.random.default_rng(0)
    dense = generator.random((7, 11)) * (generator.random((7, 11)) < 0.4)
    dense[3] = 0.0
    indptr = np.append(0, np.cumsum((dense != 0).sum(axis=1)))
    rows = SparseRows(indptr, np.nonzero(dense)[1], dense[dense != 0], 11)
    weights = generator.random(7)
    np.testing.assert_allclose(rows.gram(), dense @ dense.T, atol=1e-12)
    np.testing.assert_allclose(rows.transposed_times(weights), dense.T @ weights, atol=1e-12)


def test_a_wrong_sum_in_an_answer_is_seen() -> None:
    assert sums("so 3 * 4 + 2 = <<3*4+2=14>>14") == [(14.0, 14.0)]
    right = answer_measures(ReadText("3 4"), ReadText("3 * 4 = 12\n#### 12"))
    wrong = answer_measures(ReadText("3 4"), ReadText("3 * 4 = 13\n#### 13"))
    assert (right != wrong).any() and right[12] == 0.0 and wrong[12] == 1.0


def test_numbers_are_read_with_their_commas() -> None:
    assert as_numbers("$1,250.50 for 3, then 7.") == [1250.5, 3.0, 7.0]


@pytest.mark.parametrize("piece", ["1", "1.", "1 + ", "$", "a\n", "1-1"])
def test_a_long_text_is_measured_in_bounded_time(piece: str) -> None:
    began_s = time.process_time()
    reading = ReadText(piece * (300_000 // len(piece)))
    form_measures(reading), quantity_measures(reading), answer_measures(reading, reading)
    assert time.process_time() - began_s < 20, "what grows with the square takes minutes"
