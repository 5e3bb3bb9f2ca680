"""From a request to the tokens a folder's model reads, and to how its answer is chosen."""

from __future__ import annotations

from backbone.errors import TemplateRefusal
from backbone.sampling import Sampler, SamplingValues
from backbone.tokenizer import Tokenizer
from offload.errors import RequestError, Unsupported
from offload.messages import Request
from offload.turns import require_place, turns


def refuse_unsupported(request: Request, vocab_size: int) -> None:
    """Raise Unsupported for what the torch runtime has no way to do, RequestError for nonsense."""
    if request.sampling.json_schema is not None:
        raise Unsupported("the torch runtime follows no JSON schema; run the model as a GGUF file")
    if request.sampling.prompt_logprobs:
        raise Unsupported("the torch runtime scores no prompts; run the model as a GGUF file")
    unknown = [token for token in request.sampling.logit_bias or () if token >= vocab_size]
    if unknown:
        raise RequestError(
            f"logit_bias names the token {unknown[0]}; this model's are 0 to {vocab_size - 1}"
        )


def prompt_tokens(tokenizer: Tokenizer, request: Request) -> list[int]:
    """Return the prompt's tokens, with what the answer begins with behind them.

    Without a chat template, the last message is continued as plain text. Raises Unsupported for
    tools where nothing can tell the model of them, RequestError where the template refuses.
    """
    template = tokenizer.chat_template
    if request.tools and (request.prompt is not None or template is None):
        raise Unsupported("tools need messages and a chat template that has a place for them")
    require_place(request, template or "")
    if request.prompt is None and template is not None:
        return _chat_tokens(tokenizer, request)
    tokens = tokenizer.encode(request.last_text() + request.answer_prefix)
    if not tokens:
        raise RequestError("the prompt has no token in this model's vocabulary; write a question")
    return tokens


def _chat_tokens(tokenizer: Tokenizer, request: Request) -> list[int]:
    try:
        return tokenizer.encode_chat(
            turns(request),
            tools=request.tools,
            answer_prefix=request.answer_prefix,
        )
    except TemplateRefusal as error:
        raise RequestError(str(error)) from None


def sampler_for(request: Request, prompt: list[int], vocab_size: int) -> Sampler:
    """Return how the answer to a request is chosen."""
    asked = request.sampling
    values = SamplingValues(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
    )
    sampler = Sampler(values, seed=asked.seed, vocab_size=vocab_size, logit_bias=asked.logit_bias)
    sampler.note(prompt)
    return sampler
