"""What a request asks of its sampling reaches the sampler, and what no model can do is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backbone.errors import RequestError, SchemaRefusal
from backbone.sampler_factory import sampler_for
from backbone.sampling import Sampler, SamplingValues
from backbone.schema import Schemas, of_tokenizer
from backbone.tokenizer import Tokenizer

FOLDER = Path(__file__).parents[2] / "offload" / "pair" / "nearfar-cloud"
FREE = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": None,
    "logit_bias": None,
    "stop_token_ids": (),
    "min_tokens": 0,
    "ignore_eos": False,
    "json_schema": None,
}


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    tokenizer = Tokenizer(FOLDER)
    size = tokenizer.max_token_id + 1
    return Schemas(partial(of_tokenizer, tokenizer, size), size)


def made(schemas: Schemas, *, begun: str = "", **values: Any) -> Sampler:
    asked = SimpleNamespace(**FREE | values)
    return sampler_for(asked, [3, 5], begun=begun, vocab_size=9, schemas=schemas, ends=())


def test_every_value_that_was_asked_for_reaches_the_sampler(schemas: Schemas) -> None:
    values = {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
    values |= {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    sampler = made(schemas, seed=8, logit_bias={2: 1.5}, **values)
    assert sampler.values == SamplingValues(**values)
    assert sampler.logit_bias == {2: 1.5}
    assert sampler.uniform() == made(schemas, seed=8).uniform()


def test_a_penalty_bears_on_the_prompt(schemas: Schemas) -> None:
    seen = made(schemas, repetition_penalty=1.2).seen
    assert seen is not None and seen.nonzero().flatten().tolist() == [3, 5]


def test_a_bias_on_a_token_that_the_model_has_not_is_refused(schemas: Schemas) -> None:
    with pytest.raises(RequestError, match="names the token 9; this model's are 0 to 8"):
        made(schemas, logit_bias={8: 1.0, 9: 1.0})


def test_a_schema_that_cannot_be_kept_is_a_wrong_request(schemas: Schemas) -> None:
    with pytest.raises(RequestError, match="json_schema cannot be kept"):
        made(schemas, json_schema={"type": "nothing"})
    with pytest.raises(SchemaRefusal, match="answer_prefix does not fit"):
        made(schemas, json_schema={"type": "integer"}, begun="{")
    assert not made(schemas, json_schema={"type": "integer"}, begun="4").is_done


@pytest.mark.parametrize(
    ("values", "takes"),
    [
        ({}, True),
        ({"logit_bias": {2: 1.5}}, True),
        ({"temperature": 0.5}, False),
        ({"repetition_penalty": 1.2}, False),
        ({"presence_penalty": 0.5}, False),
        ({"json_schema": {"type": "integer"}}, False),
    ],
)
def test_drafts_are_for_choices_that_can_be_verified(
    schemas: Schemas, values: dict[str, Any], takes: bool
) -> None:
    assert made(schemas, **values).takes_drafts is takes
