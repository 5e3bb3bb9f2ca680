"""Rich terminal screen: Markdown as it comes, a line editor, and a status line."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style
from rich.console import Console
from rich.text import Text

from backbone.terminal_text import printable, to_clipboard
from edge.chat.chat_commands import COMMANDS
from edge.chat.leaving_text import Line
from edge.chat.screen import SEAMS
from edge.chat.status_line import answered
from edge.chat.terminal import WHO, is_cut, is_seam
from edge.chat.typed_ahead import TypedAhead
from offload.messages import Delta, Finish, Side

if TYPE_CHECKING:
    from edge.chat.markdown_stream import (
        MarkdownStream,  # and Markdown itself, with the first answer
    )

_LEAVING = {"": "", "dim": "dim", "kept": "bold magenta"}
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse #888888", "prompt": "ansicyan bold"})


class RichScreen:
    """Rich screen of a chat. `status` makes the line at the foot; `questions` are those asked."""

    def __init__(
        self, *, status: Callable[[], str], questions: list[str], models: Callable[[], list[str]]
    ) -> None:
        self._console = Console(highlight=False)
        self._answer: MarkdownStream | None = None
        self._source: Side | None = None
        self._interrupted = self._turned = False
        self._ahead = TypedAhead()
        self._session: PromptSession[str] = PromptSession(
            history=QuestionHistory(questions),
            completer=Slash(models),
            key_bindings=_keys(),
            style=_STYLE,
            multiline=True,
            complete_while_typing=True,
            refresh_interval=1.0,  # the link comes and goes while a person thinks
            bottom_toolbar=lambda: FormattedText([("class:bottom-toolbar", status())]),
            prompt_continuation=lambda width, _line, _wrap: " " * width,
        )

    async def read(self) -> str:
        """Return what is typed: Enter sends, Alt-Enter or Ctrl-J begins a new line.

        Ctrl-C clears what was typed; a second one on an empty line leaves, as Ctrl-D does.
        """
        if self._turned:  # between two turns
            self._console.print()
        self._turned = False
        while True:
            try:
                ahead = self._ahead.take()
                text = await self._session.prompt_async([("class:prompt", "> ")], default=ahead)
                self._interrupted = False
                return text
            except KeyboardInterrupt:
                if self._interrupted:
                    raise EOFError from None
                self._interrupted = True
                self.remark("Ctrl-C once more, or Ctrl-D, leaves")

    def answering(self) -> AbstractContextManager[None]:
        """Keep what is typed while an answer runs for the next question."""
        return self._ahead.listening()

    def _drawing(self) -> MarkdownStream:
        if self._answer is None:
            from edge.chat.markdown_stream import MarkdownStream

            self._answer = MarkdownStream(self._console)
        return self._answer

    def reading(self, progress: str) -> None:
        """Draw how far the prompt has been read, where the answer will be."""
        self._drawing().wait(progress)

    def show(self, delta: Delta) -> None:
        """Draw the next piece."""
        answer = self._drawing()
        if is_cut(answer.text, delta):
            answer.cut(delta.text)
            return
        if delta.replaces and answer.text:
            answer.withdraw()
            self.remark(f"— {SEAMS[delta.source or 'cloud']} —")
        elif answer.text and is_seam(self._source, delta):
            # Not within the text: there it might stand in the middle of code.
            self.remark(f"— the {WHO[delta.source or 'cloud']} model goes on with this answer —")
        self._source = delta.source or self._source
        answer.write(printable(delta.text))

    def end(self, text: str, finish: Finish | None) -> None:
        """Draw what is left, and say quietly who answered."""
        if self._answer is not None:
            self._answer.end()
        self._answer = self._source = None
        if parts := answered(finish):
            self.remark(" · ".join(parts))
        self._turned = True

    def remark(self, text: str) -> None:
        """Say something quietly."""
        if self._answer is not None:
            self._answer.pause()
        self._console.print(printable(text), style="dim", markup=False)

    def fail(self, text: str) -> None:
        """Say what went wrong, where it was asked."""
        if self._answer is not None:
            self._answer.pause()
        self._console.print(printable(text), style="red", markup=False)

    def leaving(self, lines: Sequence[Line]) -> None:
        """Draw the lines; what was replaced stands out."""
        if self._answer is not None:
            self._answer.pause()
        for line in lines:
            drawn = ((printable(text), _LEAVING[style]) for text, style in line)
            self._console.print(Text.assemble(*drawn), soft_wrap=True)

    def offer(self, text: str) -> None:
        """Put it before what was typed ahead."""
        self._ahead.offer(text)

    def copy(self, text: str) -> bool:
        """Put a text on the clipboard, as far as the terminal lets us."""
        to_clipboard(text, self._console.file)
        return True

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        """Ask by letters; Ctrl-C, or anything else, is the last choice."""
        if self._answer is not None:
            self._answer.pause()
        self._console.print(printable(question), style="bold", markup=False)
        for key, words in choices.items():
            self._console.print(f"  {key}  {words}", markup=False)
        reply = ""
        with contextlib.suppress(EOFError, KeyboardInterrupt), self._ahead.paused():
            # In raw mode Ctrl-C is a key; the signal stays with the answer that waits.
            session: PromptSession[str] = PromptSession()
            reply = await session.prompt_async("? ", handle_sigint=False)
        return reply.strip().lower() if reply.strip().lower() in choices else list(choices)[-1]


class QuestionHistory(History):
    """Question history of the conversations that still exist; a deleted one leaves none."""

    def __init__(self, questions: list[str]) -> None:
        super().__init__()
        self._questions = questions

    def load_history_strings(self) -> Iterable[str]:
        """Return what was asked, the newest first."""
        return list(self._questions)

    def store_string(self, string: str) -> None:
        """Keep nothing: the conversation itself is kept."""


class Slash(Completer):
    """Slash command completer: commands with what they do, models by name, files by path."""

    def __init__(self, models: Callable[[], list[str]]) -> None:
        self._models = models
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Yield what the typed words may become."""
        name, space, rest = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            for each, command in COMMANDS.items():
                if each.startswith(name):
                    yield Completion(each, start_position=-len(name), display_meta=command.help)
        elif name == "/model":
            for model in self._models():
                if model.startswith(rest):
                    yield Completion(model, start_position=-len(rest))
        elif name in ("/attach", "/file", "/save"):
            yield from self._paths.get_completions(Document(rest, len(rest)), event)

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Yield the same; nothing here takes long."""
        for completion in self.get_completions(document, complete_event):
            yield completion


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):  # a line may go on behind a backslash
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def model_names(folder: Path) -> list[str]:
    """Return the names that /model takes."""
    from edge.models.local_models import names_here

    return names_here(folder)
