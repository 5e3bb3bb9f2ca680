"""What the far model may be asked for in one request, and what each would have been worth."""

from __future__ import annotations

import pytest

from offload.messages import Message, Request, Sampling
from offload.policy.serving.actions import BY_DEFAULT, Watches, worth_lines

ALL = frozenset({"near", "check", "lend", "ask"})
QUESTION = Request(messages=(Message(role="user", content="question"),))


def test_only_what_may_be_chosen_is_and_a_form_of_the_callers_is_not_helped_with() -> None:
    watches = Watches()
    every = watches.actions(ALL, QUESTION, settles=False)
    assert every.asks and every.check is not None and every.lend is not None
    plain = watches.actions(BY_DEFAULT, QUESTION, settles=False)
    assert plain.asks and plain.check is None and plain.lend is None
    in_form = Request(messages=QUESTION.messages, sampling=Sampling(stop=("x",)))
    assert watches.actions(ALL, in_form, settles=False).lend is None


@pytest.mark.parametrize(("chosen", "lends"), [(ALL, False), (ALL - {"ask", "check"}, True)])
def test_words_are_lent_to_a_reader_who_keeps_all_only_where_nothing_is_withdrawn(
    chosen: frozenset[str], lends: bool
) -> None:
    assert (Watches().actions(chosen, QUESTION, settles=True).lend is not None) == lends


def test_what_each_action_would_have_been_worth_is_told_from_the_figures_of_a_decision() -> None:
    lines = worth_lines({"p_near": 0.4, "p_far": 0.8, "far_whole_s": 2.0})
    assert len(lines) == 4 and "0.40" in lines[0]
    assert lines[1] == "To ask for a far answer would add +0.40, in about 2.0 s."
    assert "would add +0.38" in lines[2] and "85% of the tokens" in lines[2]
    assert "words of it lent would add +0.40" in lines[3]
    assert worth_lines({"p_near": None, "p_far": 0.8}) == []
