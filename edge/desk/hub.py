"""The Hugging Face Hub: from a name that a person writes to the files to fetch.

Addresses: the Hub's API, `GET /api/models/{repo}/revision/{revision}?blobs=true` and
`/{repo}/resolve/{revision}/{file}`. HF_ENDPOINT names a mirror, HF_TOKEN a token.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from backbone.causes import cause
from edge.desk.catalogue import known
from edge.desk.download import DownloadError, Wanted, open_url, refusal

PREFERRED = ("Q4_K_M", "Q4_0", "Q5_K_M", "Q8_0")  # by what a small device runs well
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_FOLDER = (".safetensors", ".json", ".jinja", ".txt", ".model")  # what a Hugging Face folder needs


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a person asked for: a repository, and perhaps a file or a quantization in it."""

    repo: str
    revision: str = "main"
    file: str | None = None
    quantization: str | None = None


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str
    size: int


class File(msgspec.Struct, frozen=True):
    """A file of a repository, as the Hub tells it."""

    rfilename: str
    size: int = 0
    blobId: str | None = None
    lfs: _Lfs | None = None


class _Repo(msgspec.Struct, frozen=True):
    siblings: list[File]


def parse(name: str) -> Source:
    """Read a catalogue name, `owner/repo[:QUANT]`, `owner/repo/file.gguf` or an address of the Hub.

    Raises DownloadError with the forms that would do.
    """
    listed = known(name)
    if listed:
        return Source(repo=listed.repo, quantization="Q4_K_M")
    text = re.sub(r"^(hf\.co|huggingface\.co)/", "", name)
    if text.startswith(("https://", "http://")):
        text = unquote(urlsplit(text).path).strip("/")
    text, _, quantization = text.partition(":")
    owner_repo = "/".join(text.split("/")[:2])
    if not _REPO.fullmatch(owner_repo):
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
        quantization=quantization or None,
    )


def endpoint() -> str:
    """Return the Hub's address, or its mirror's."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """Return what goes with each request: a token, where there is one."""
    token = os.environ.get("HF_TOKEN") or _kept_token()
    return {"User-Agent": "nearfar", **({"Authorization": f"Bearer {token}"} if token else {})}


def _kept_token() -> str:
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    with contextlib.suppress(OSError):
        return (Path(home).expanduser() / "token").read_text(encoding="ascii").strip()
    return ""


def files(source: Source) -> list[File]:
    """Return every file of the repository. Raises DownloadError."""
    where = f"{endpoint()}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}"
    try:
        with contextlib.closing(open_url(f"{where}?blobs=true", headers())) as answer:
            return msgspec.json.decode(answer.read(), type=_Repo).siblings
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(refusal(f"{endpoint()}/{source.repo}", error.code)) from None
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise DownloadError(
            f"{endpoint()} cannot be reached ({cause(error)}); check the network, "
            "or set HF_ENDPOINT to a mirror"
        ) from None


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
    split = _SPLIT.search(chosen[0].rfilename)
    if not split:
        return chosen
    start = chosen[0].rfilename[: split.start()]
    parts = [each for each in models if _SPLIT.sub("", each.rfilename) == start]
    if len(parts) != int(split[2]):
        raise DownloadError(f"{chosen[0].rfilename} lacks parts in its repository; try another")
    return sorted(parts, key=lambda each: each.rfilename)


def wanted(source: Source, file: File) -> Wanted:
    """Return where a file is and what it must be."""
    where = f"{endpoint()}/{source.repo}/resolve/{quote(source.revision, safe='')}"
    return Wanted(
        url=f"{where}/{quote(file.rfilename)}",
        size_bytes=file.lfs.size if file.lfs else file.size,
        sha256=file.lfs.sha256 if file.lfs else None,
        git_sha1=None if file.lfs else file.blobId,
    )
