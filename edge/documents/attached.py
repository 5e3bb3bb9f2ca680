"""Attached documents: small ones go into the next question whole, of longer ones what may answer.

A longer one, or a folder, stays attached: each question is given the passages that may answer it,
each under its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from backbone.files import expanded
from edge.conversations.attachments import fenced
from edge.documents.picture_files import is_picture, read_picture
from edge.documents.search import DocumentSearch
from edge.models.local_models import find_model
from edge.models.model_card import card_of
from offload.config.places import Places
from offload.config.settings import DocumentSettings, Settings
from offload.documents.document import Document, Passage
from offload.documents.index import DocumentIndex
from offload.documents.reader import read_document
from offload.errors import RequestError
from offload.messages import MAX_PICTURES, Picture

_USUAL_LEN = 4096  # tokens, of a server's model that does not say
_BYTES_PER_TOKEN = 3  # of any language, so that a text is never longer than is reckoned


def num_tokens(text: str) -> int:
    """Return how many tokens a text has at most, about."""
    return len(text.encode()) // _BYTES_PER_TOKEN + 1


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A document or folder that is searched for each question."""

    path: Path
    name: str
    index: DocumentIndex


class Attached(NamedTuple):
    """What was attached; `stays` says that it is too long to go whole, and is searched."""

    name: str
    about: str
    stays: bool

    def __str__(self) -> str:
        about = f" ({self.about})" if self.about else ""
        if not self.stays:
            return f"{self.name}{about} goes with your next question"
        return (
            f"{self.name}{about} stays attached: each question gets the passages that may answer it"
        )


@dataclass(kw_only=True)
class AttachedDocuments:
    """What is attached to one conversation, or to one question.

    `context_len` tells how many tokens the near model holds.
    """

    search: DocumentSearch
    settings: DocumentSettings
    context_len: Callable[[], int]
    whole: list[Document] = field(default_factory=list)  # for the next question
    searched: list[Searched] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)  # for the next question

    def attach(self, name: str | Path) -> Attached:
        """Attach a file or a folder. Raises RequestError.

        It may take seconds: call it in a thread where an event loop runs.
        """
        path = expanded(name)
        if path.is_dir():
            return self._attach_folder(path)
        if is_picture(path):
            if len(self.pictures) == MAX_PICTURES:
                raise RequestError(f"{MAX_PICTURES} pictures go with one question; ask it first")
            self.pictures.append(read_picture(path))
            return Attached(path.name, "a picture", stays=False)
        return self.attach_document(read_document(path), path)

    def attach_document(self, document: Document, path: Path) -> Attached:
        """Attach what was read of a file."""
        about = [f"{len(document.pages)} pages"] if document.pages[0].number else []
        if document.num_unread:
            about.append(f"{document.num_unread} damaged ones are left out")
        is_whole = self._fits(document)
        if is_whole:
            self.whole.append(document)
        else:
            index = self.search.of_document(document)
            self._keep(Searched(path=path, name=document.name, index=index))
        return Attached(document.name, ", ".join(about), stays=not is_whole)

    def _attach_folder(self, folder: Path) -> Attached:
        index, done = self.search.of_folder(folder)
        if not done.num_files:
            index.close()
            raise RequestError(
                f"{folder} holds no text, Markdown, code or PDF that can be read; "
                "attach another folder"
            )
        self._keep(Searched(path=folder, name=folder.name, index=index))
        unread = f", {len(done.unread)} could not be read" if done.unread else ""
        return Attached(folder.name, f"{done.num_files} files{unread}", stays=True)

    def _keep(self, searched: Searched) -> None:
        for each in [each for each in self.searched if each.path == searched.path]:
            each.index.close()
            self.searched.remove(each)
        self.searched.append(searched)

    def _fits(self, document: Document) -> bool:
        most = min(self.settings.whole_tokens, self.context_len() // 2)
        held = sum(num_tokens(each.text) for each in self.whole)
        return held + num_tokens(document.text) <= most

    async def question(self, text: str) -> str:
        """Return a question behind what is attached: whole texts, and passages under their places.

        Raises what embedding raises.
        """
        parts = [fenced(each.name, each.text) for each in self.whole]
        parts += [fenced(each.title, each.text) for each in await self._passages(text)]
        return "\n\n".join([*parts, text])

    async def _passages(self, question: str) -> Sequence[Passage]:
        if not self.searched:
            return ()
        most = min(self.settings.quoted_tokens, self.context_len() // 4)
        indexes = [each.index for each in self.searched]
        found = await self.search.find(indexes, question, most * _BYTES_PER_TOKEN)
        # Read in the order of their documents they are easier to follow.
        return sorted(found, key=lambda each: (each.name, each.page, each.first_line))

    def asked(self) -> tuple[list[Document], list[Picture]]:
        """Let go of what went with a question; return it, in case the question is changed."""
        gone, self.whole, self.pictures = (self.whole, self.pictures), [], []
        return gone

    def drop(self) -> None:
        """Let go of everything."""
        for each in self.searched:
            each.index.close()
        self.whole, self.searched, self.pictures = [], [], []

    def names(self) -> list[str]:
        """Return what is attached, in words."""
        whole = [f"{each.name}, with the next question" for each in self.whole]
        whole += ["a picture, with the next question"] * len(self.pictures)
        return whole + [f"{each.name}, searched for each question" for each in self.searched]

    @property
    def paths(self) -> list[str]:
        """What stays attached, by its path."""
        return [str(each.path.absolute()) for each in self.searched]


def attached_documents(settings: Settings, here: Places) -> AttachedDocuments:
    """Return what documents are attached to, as these settings say; nothing is loaded yet."""
    return AttachedDocuments(
        search=DocumentSearch(settings, here),
        settings=settings.documents,
        context_len=lambda: context_len(settings, here),
    )


def context_len(settings: Settings, here: Places) -> int:
    """Return how many tokens the near model holds, by its file and the settings."""
    edge = settings.edge
    trained = 0 if edge.server else card_of(find_model(edge.model, here.models)).max_model_len
    return min(trained or _USUAL_LEN, edge.max_model_len or trained or _USUAL_LEN)
