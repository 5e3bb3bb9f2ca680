"""Text writer: raw completions, with the prompt and log-probabilities where asked for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from offload.messages import Delta, Finish, PromptToken
from serve.http_errors import EngineBroke
from serve.logprobs import UNLIKELY, CompletionLogprobs, TokenLogprob, completion_logprobs
from serve.prompts import echoed
from serve.request_parsing import ParsedRequest
from serve.response_bodies import Reply, TextChoice, TextReply, reason_of
from serve.response_writer import Gathered, ResponseWriter, finishes_of


class TextWriter(ResponseWriter):
    """Writes raw completions."""

    prefix = "cmpl"

    def __init__(self, parsed: ParsedRequest) -> None:
        super().__init__(parsed)
        self._lengths = [0] * len(parsed.requests)  # characters sent so far, for text_offset

    def whole(self, choices: list[Gathered]) -> Reply:
        finishes = self._ends(finishes_of(choices))
        made = []
        for index, (each, finish) in enumerate(zip(choices, finishes, strict=True)):
            echo, read = self._echo(index, each.read)
            text, written = ("", []) if self.parsed.scores_only else (each.text, each.tokens)
            logprobs = self._logprobs(index, read, self._with_end(written))
            made.append(TextChoice(index, echo + text, logprobs, reason_of(finish)))
        return TextReply(choices=made, usage=self._usage(finishes), **self._head)

    def opening(self, index: int, first: Delta | Finish) -> list[Reply]:
        if not self.parsed.echo:
            return []
        echo, read = self._echo(index, first.prompt_tokens if isinstance(first, Delta) else ())
        return [self._chunk(TextChoice(index, echo, self._logprobs(index, read, [])))]

    def pieces(self, index: int, delta: Delta) -> list[Reply]:
        if self.parsed.scores_only or not self._is_worth_saying(delta):
            return []
        logprobs = self._logprobs(index, (), self._tokens(delta))
        if not delta.token_ids:
            self._lengths[index] += len(delta.text)
        return [self._chunk(TextChoice(index, delta.text, logprobs))]

    def ending(self, index: int, finish: Finish) -> list[Reply]:
        (end,) = self._ends([finish])
        return [self._chunk(TextChoice(index, "", finish_reason=reason_of(end)))]

    def tally(self, finishes: list[Finish]) -> Reply:
        return TextReply(choices=[], usage=self._usage(self._ends(finishes)), **self._head)

    def _ends(self, finishes: list[Finish]) -> list[Finish]:
        """Return the ends of the answers, as of no writing where none was asked for."""
        return [_unwritten(each) for each in finishes] if self.parsed.scores_only else finishes

    def _chunk(self, choice: TextChoice) -> Reply:
        return TextReply(choices=[choice], usage=self._no_usage, **self._head)

    def _echo(self, index: int, read: Sequence[PromptToken]) -> tuple[str, Sequence[PromptToken]]:
        """Return the text to echo and its tokens. Raises EngineBroke where they are not told."""
        if not self.parsed.echo:
            return "", ()
        if self.parsed.requests[0].sampling.prompt_logprobs and not read:
            raise EngineBroke(
                "the engine gave no tokens of the prompt; ask for echo without logprobs"
            )
        return echoed(self.parsed.requests[index].prompt, read)

    def _with_end(self, written: list[TokenLogprob]) -> list[TokenLogprob]:
        """Return an entry for the end where an echo is followed by nothing else.

        Whoever scores a prompt leaves out the last entry, as that of the one token written.
        """
        if written or self.parsed.scores_only or not (self.parsed.echo and self.parsed.logprobs):
            return written
        return [TokenLogprob("", UNLIKELY, [], -1, [])]

    def _logprobs(
        self, index: int, read: Sequence[PromptToken], written: Sequence[TokenLogprob]
    ) -> CompletionLogprobs | None:
        if not self.parsed.logprobs:
            return None
        made = completion_logprobs(
            read, written, at=self._lengths[index], top=self.parsed.num_alternatives
        )
        self._lengths[index] += sum(len(text) for text in made.tokens)
        return made


def _unwritten(finish: Finish) -> Finish:
    usage = msgspec.structs.replace(finish.usage, completion_tokens=0)
    reason = "length" if finish.reason == "stop" else finish.reason
    return msgspec.structs.replace(finish, reason=reason, usage=usage)
