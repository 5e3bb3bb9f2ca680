"""Hugging Face Hub client: from a name that a person writes to the files to fetch.

Addresses: the Hub's API, `GET /api/models/{repo}/revision/{revision}?blobs=true` and
`/{repo}/resolve/{revision}/{file}`. HF_ENDPOINT names a mirror, HF_TOKEN a token, HF_HOME where a
kept token lies.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote, unquote, urlencode, urlsplit

import msgspec

from backbone.files import expanded
from edge.models.catalogue import listed
from edge.models.download import DownloadError, DownloadTarget, read_small
from edge.models.model_files import REPO
from edge.models.split_models import set_of

PREFERRED = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0")  # by what a small device runs well
MAX_LIST_BYTES = 32 << 20  # a list of 50,000 files has about 20 MB
_MOST_WORDS = 200  # characters of a search
_FOLDER = (".safetensors", ".json", ".jinja", ".txt", ".model")  # what a Hugging Face folder needs


@dataclass(frozen=True, kw_only=True)
class Source:
    """Source of a download: a repository, and perhaps a file or a quantization in it."""

    repo: str
    revision: str = "main"
    file: str | None = None
    quantization: str | None = None


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str
    size: Annotated[int, msgspec.Meta(ge=0)]


class File(msgspec.Struct, frozen=True):
    """A file of a repository, as the Hub tells it."""

    rfilename: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    blobId: str | None = None
    lfs: _Lfs | None = None


class _Repo(msgspec.Struct, frozen=True):
    siblings: list[File]


class HubModel(msgspec.Struct, frozen=True):
    """A repository that a search found; `gated` says that its owner must let a person in."""

    id: str
    downloads: Annotated[int, msgspec.Meta(ge=0)] = 0
    gated: bool | str = False


def parse(name: str) -> Source:
    """Read a catalogue name, `owner/repo[:QUANT]`, `owner/repo/file.gguf` or an address of the Hub.

    Raises DownloadError with the forms that would do.
    """
    named = listed(name)
    if named:
        return Source(repo=named[0].repo, quantization=named[1] or "Q4_K_M")
    text = re.sub(r"^(hf\.co|huggingface\.co)/", "", name)
    if text.startswith(("https://", "http://")):
        text = unquote(urlsplit(text).path).strip("/")
    text, _, quantization = text.partition(":")
    owner_repo = "/".join(text.split("/")[:2])
    if not REPO.fullmatch(owner_repo):
        raise DownloadError(
            f"{name!r} is no model; write a name of `nearfar models list --all`, OWNER/REPO, "
            "OWNER/REPO:Q4_K_M, or the address of a file on the Hub"
        )
    rest = text.split("/")[2:]
    revision = "main"
    if rest and rest[0] in ("resolve", "blob", "tree") and len(rest) > 1:
        revision, rest = rest[1], rest[2:]
    return Source(
        repo=owner_repo,
        revision=revision,
        file="/".join(rest) or None,
        # ollama's word for "whichever is the usual one"
        quantization=None if quantization.lower() in ("", "latest") else quantization,
    )


def endpoint() -> str:
    """Return the Hub's address, or its mirror's."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """Return what goes with each request: a token, where there is one. Raises DownloadError."""
    said = os.environ.get("HF_TOKEN", "").strip()
    token, where = (said, "HF_TOKEN") if said else (_kept_token(), "the kept token of the Hub")
    if not (token.isascii() and token.isprintable() and " " not in token):
        # The token itself is never shown.
        raise DownloadError(
            f"{where} has a character that no token has (a quotation mark from a text editor, or "
            "a space); copy it anew from the settings of your account on the Hub"
        )
    return {"User-Agent": "nearfar", **({"Authorization": f"Bearer {token}"} if token else {})}


def _kept_token() -> str:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    path = expanded(os.environ.get("HF_TOKEN_PATH", f"{home}/token"))
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def files(source: Source) -> list[File]:
    """Return every file of the repository. Raises DownloadError."""
    where = f"{endpoint()}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}"
    page = f"{endpoint()}/{source.repo}"
    body = read_small(f"{where}?blobs=true", headers(), MAX_LIST_BYTES, page=page)
    try:
        return msgspec.json.decode(body, type=_Repo).siblings
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise DownloadError(
            f"{endpoint()} answers with no list of files; check HF_ENDPOINT"
        ) from None


def search(words: str, *, most: int = 20) -> list[HubModel]:
    """Return the repositories with GGUF files that the Hub finds for words, most fetched first.

    The words leave for the Hub. Raises DownloadError.
    """
    asked = urlencode({"search": words[:_MOST_WORDS], "filter": "gguf", "sort": "downloads"})
    where = f"{endpoint()}/api/models?{asked}&direction=-1&limit={most}"
    body = read_small(where, headers(), MAX_LIST_BYTES, page=endpoint())
    try:
        found = msgspec.json.decode(body, type=list[HubModel])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise DownloadError(
            f"{endpoint()} answers with no list of models; check HF_ENDPOINT"
        ) from None
    return [each for each in found if REPO.fullmatch(each.id)][:most]


def choose(source: Source, there: Sequence[File]) -> list[File]:
    """Return the files to fetch: one GGUF with all its parts, or a Hugging Face folder's files.

    Raises DownloadError naming what there is.
    """
    models = [each for each in there if each.rfilename.endswith(".gguf")]
    models = [each for each in models if "mmproj" not in each.rfilename.lower()]
    if source.file:
        chosen = [each for each in there if each.rfilename == source.file]
    elif models:
        chosen = _of_quantization(source, models)
    else:
        chosen = [each for each in there if each.rfilename.endswith(_FOLDER)]
        if not any(each.rfilename.endswith(".safetensors") for each in chosen):
            raise DownloadError(f"{source.repo} has neither a GGUF nor safetensors; try another")
    if not chosen:
        kinds = ", ".join(sorted(each.rfilename for each in models)[:12]) or "no GGUF"
        raise DownloadError(
            f"{source.repo} has no {source.file or source.quantization}; it has {kinds}"
        )
    return _with_parts(chosen, models)


def _of_quantization(source: Source, models: Sequence[File]) -> list[File]:
    for kind in [source.quantization] if source.quantization else [*PREFERRED, ""]:
        pattern = re.compile(rf"(^|[-_./]){re.escape(kind)}([-_./]|$)" if kind else ".", re.I)
        found = sorted(
            (each for each in models if pattern.search(each.rfilename)),
            key=lambda each: each.rfilename,
        )
        if found:
            return found[:1]
    return []


def _with_parts(chosen: list[File], models: Sequence[File]) -> list[File]:
    split = set_of(chosen[0].rfilename)
    if not split:
        return chosen
    sets = [(set_of(each.rfilename), each) for each in models]
    parts = {each.rfilename: each for found, each in sets if found and found[::2] == split[::2]}
    if len(parts) != split[2]:
        raise DownloadError(f"{chosen[0].rfilename} lacks parts in its repository; try another")
    return [parts[name] for name in sorted(parts)]


def wanted(source: Source, file: File) -> DownloadTarget:
    """Return where a file is and what it must be. Raises DownloadError for one without checksum."""
    where = f"{endpoint()}/{source.repo}/resolve/{quote(source.revision, safe='')}"
    if file.lfs is None and not file.blobId:
        raise DownloadError(
            f"{endpoint()} gives no checksum of {file.rfilename}, so nearfar cannot check whether "
            "it came whole; try another mirror"
        )
    return DownloadTarget(
        url=f"{where}/{quote(file.rfilename)}",
        size_bytes=file.lfs.size if file.lfs else file.size,
        sha256=file.lfs.sha256 if file.lfs else None,
        git_sha1=None if file.lfs else file.blobId,
        page=f"{endpoint()}/{source.repo}",
    )
