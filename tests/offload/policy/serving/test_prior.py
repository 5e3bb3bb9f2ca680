from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offload.errors import RequestError, SettingsError
from offload.policy.serving.prior import DefaultPrior, Prior, load_prior, save_prior
from tests.offload.made_outcomes import made_rows


def _fit(num_rows: int = 200, *, answers: bool = False) -> Prior:
    rows = made_rows(num_rows, answers=answers)
    return Prior.fit(
        [row["prompt"] for row in rows],
        [row["weak_correct"] for row in rows],
        [row["strong_correct"] for row in rows],
        answers=[row["weak_response"] for row in rows] if answers else None,
    )


@pytest.fixture(scope="module")
def prior() -> Prior:
    return _fit()


def test_prompts_of_a_hard_topic_gain_more_than_those_of_an_easy_one(prior: Prior) -> None:
    hard = prior.gain("Question 9-1: tell me of the matrix theorem tensor integral vector?")
    easy = prior.gain("Question 9-1: tell me of the river city animal song flower?")
    assert hard > easy + 0.1


def test_gain_is_the_difference_of_two_probabilities(prior: Prior) -> None:
    near, far = prior.probabilities("tell me of the river")
    assert 0.0 < near < 1.0 and 0.0 < far < 1.0
    assert prior.gain("tell me of the river") == far - near


@pytest.mark.parametrize("prompt", ["", " ", "\ud800", "x" * 10**6, "∑" * 50, "\x00\n"])
def test_any_prompt_has_a_gain(prior: Prior, prompt: str) -> None:
    for each in (prior, DefaultPrior()):
        assert -1.0 <= each.gain(prompt) <= 1.0


def test_fitting_twice_gives_the_same_prior() -> None:
    assert _fit(80).gain("a matrix of song") == _fit(80).gain("a matrix of song")


def test_an_answer_with_a_wrong_sum_makes_the_gain_larger() -> None:
    prior = _fit(answers=True)
    prompt = "Question 3-3: tell me of the river matrix?"
    assert prior.reads_answers
    assert prior.gain(prompt, "3 + 4 = 8\n#### 8") > prior.gain(prompt, "3 + 4 = 7\n#### 7") + 0.2


@pytest.mark.parametrize("answers", [False, True])
def test_a_saved_prior_says_the_same(tmp_path: Path, answers: bool) -> None:
    prior, path = _fit(answers=answers), tmp_path / "new" / "prior.npz"
    save_prior(prior, path)
    loaded = load_prior(path)
    for prompt in ("", "the matrix of a song", "3 rivers + 4 cities?"):
        assert loaded.probabilities(prompt, "1 + 1 = 2") == prior.probabilities(prompt, "1 + 1 = 2")
    assert [each.name for each in path.parent.iterdir()] == ["prior.npz"]


def test_a_damaged_missing_or_pickled_file_is_named(tmp_path: Path, prior: Prior) -> None:
    whole, path = tmp_path / "whole.npz", tmp_path / "prior.npz"
    save_prior(prior, whole)
    with pytest.raises(SettingsError, match=r"prior\.npz"):
        load_prior(path)
    for content in (b"", b"not an archive", whole.read_bytes()[:-200], whole.read_bytes()[:999]):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="calibrate again"):
            load_prior(path)
    np.savez(path, version=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SettingsError, match="calibrate again"):
        load_prior(path)


def test_a_file_of_another_version_or_shape_is_refused(tmp_path: Path, prior: Prior) -> None:
    path = tmp_path / "prior.npz"
    save_prior(prior, path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, wrong in (
        ("version", np.array(99)),
        ("weights", np.zeros((2, 3))),
        ("words.idf", np.zeros(1)),
        ("chars.buckets", arrays["chars.buckets"] + 2**20),
    ):
        np.savez(path, **(arrays | {name: wrong}))
        with pytest.raises(SettingsError, match="cannot be read"):
            load_prior(path)


def test_labels_that_teach_nothing_are_refused_with_what_to_do() -> None:
    prompts = [f"prompt {number}" for number in range(60)]
    with pytest.raises(RequestError, match="too few"):
        Prior.fit(prompts[:10], [True] * 10, [True] * 10)
    with pytest.raises(RequestError, match="always right"):
        Prior.fit(prompts, [True] * 60, [True, False] * 30)
    with pytest.raises(RequestError, match="one of each"):
        Prior.fit(prompts, [True] * 60, [True] * 59)


def test_a_far_model_that_is_always_right_can_still_be_learned_from() -> None:
    rows = made_rows(120)
    prior = Prior.fit(
        [row["prompt"] for row in rows], [row["weak_correct"] for row in rows], [True] * 120
    )
    assert prior.probabilities("anything")[1] > 0.98


def test_the_default_prior_needs_no_labels_and_prefers_dense_arithmetic() -> None:
    hard = DefaultPrior().gain("If 3 of 12 boxes cost $4.50, what do 7 * 8 boxes cost at 15% off?")
    assert hard > DefaultPrior().gain("Say hello to my friend")
