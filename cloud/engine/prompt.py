"""From a request to the tokens the network reads; what this model cannot take is refused."""

from __future__ import annotations

from backbone.errors import TemplateRefusal
from backbone.tokenizer import Tokenizer
from offload.chat_turns import require_known, require_place, turns
from offload.errors import ContextLengthError, RequestError, Unsupported
from offload.messages import Request


def encode_request(request: Request, tokenizer: Tokenizer, max_model_len: int) -> list[int]:
    """Return the prompt's tokens, and behind them those of the answer that has begun.

    Raises RequestError where the model cannot take it.
    """
    if request.prompt_token_ids:
        require_known(request, tokenizer.max_token_id + 1)
        tokens = list(request.prompt_token_ids)
    elif request.prompt is not None:
        if request.tools:
            raise Unsupported("tools need messages and a chat template; a raw prompt has neither")
        if request.suffix:
            tokens = tokenizer.encode_around(request.prompt, request.suffix)
        else:
            tokens = tokenizer.encode(request.prompt, answer_prefix=request.answer_prefix)
    else:
        tokens = _encode_messages(request, tokenizer)
    if not tokens:
        raise RequestError("the prompt has no tokens; write a question")
    if len(tokens) >= max_model_len:
        raise ContextLengthError(len(tokens), max_model_len)
    return tokens


def _encode_messages(request: Request, tokenizer: Tokenizer) -> list[int]:
    _require_template(request, tokenizer.template_for(request.tools))
    try:
        return tokenizer.encode_chat(
            turns(request),
            tools=request.tools,
            answer_prefix=request.answer_prefix,
            options=request.template_options,
        )
    except TemplateRefusal as error:
        raise RequestError(str(error)) from None


def _require_template(request: Request, template: str | None) -> None:
    """Refuse what a template would leave out in silence."""
    if template is None:
        raise Unsupported("this model has no chat template; ask it with a plain prompt")
    require_place(request, template)
