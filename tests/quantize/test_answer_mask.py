from __future__ import annotations

import numpy as np
import pytest

from backbone.errors import NearfarError
from offload.pair import CLOUD_MODEL
from quantize.calibration import encode
from quantize.divergence import DivergenceSum, control_ids, inside_answers
from quantize.report import ReportOptions, make_report

TALK = "<|user|>What is 2 + 2?<|assistant|>4<|end|>" * 30
ENDS = ("<|assistant|>", "<|end|>")


def test_only_what_follows_the_opening_token_counts_and_the_closing_one_with_it() -> None:
    said = inside_answers([7, 1, 8, 2, 9, 9, 0, 1, 8, 2, 9], (2, 0))
    assert said.tolist() == [False] * 4 + [True] * 3 + [False] * 3 + [True]


def test_control_tokens_are_found_by_name() -> None:
    ids = control_ids(CLOUD_MODEL, ENDS)
    assert [encode(CLOUD_MODEL, name, parse_special=True) for name in ENDS] == [[i] for i in ids]
    with pytest.raises(NearfarError, match="no single token"):
        control_ids(CLOUD_MODEL, ("assistant says", "<|end|>"))


def test_a_report_can_score_answers_alone() -> None:
    def positions(between: tuple[str, str] | None) -> int:
        options = ReportOptions(
            num_windows=2, window_len=64, parse_special=True, answers_between=between
        )
        report = make_report([CLOUD_MODEL], CLOUD_MODEL, TALK, options=options)
        assert report.rows[0].perplexity_change == 0.0
        return report.num_positions

    assert 0 < positions(ENDS) < positions(None)


def test_the_error_of_a_change_is_smaller_than_that_of_either_perplexity() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((500, 20)).astype(np.float32) * 3
    found = DivergenceSum()
    near = reference + rng.standard_normal(reference.shape).astype(np.float32) * 0.01
    found.add(reference, near, rng.integers(0, 20, 500))
    result = found.result()
    assert 0 < result.perplexity_change_error < 0.01
    assert abs(result.perplexity_change) < 4 * result.perplexity_change_error
