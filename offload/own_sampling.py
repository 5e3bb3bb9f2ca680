"""Own sampling: how a model's tokens are drawn where nobody says, as its own files recommend.

A GGUF file says it in its metadata (`general.sampling.*`), a Hugging Face folder in its
`generation_config.json`, and of models known by name a table here does. What nothing recommends for
is drawn as EVERYDAY.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backbone.file_reading import read_bytes
from offload.messages import Request, Sampled, Sampling

_log = logging.getLogger("nearfar.sampling")


class OwnSampling(msgspec.Struct, frozen=True, kw_only=True):
    """A model's recommended sampling; the neutral values are those of Sampling."""

    temperature: Annotated[float, Meta(ge=0.0, le=5.0)] = 1.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10.0)] = 1.0

    def settled(self, request: Request) -> Request:
        """Return the request with every value of its sampling said, its seed too.

        Where a temperature was given, that and the neutral values hold; under a JSON schema, too,
        nothing is drawn unasked.
        """
        sampling = request.sampling
        if sampling.draws_own:
            sampling = self._filled(sampling)
        if sampling.temperature > 0.0 and sampling.seed is None:
            sampling = msgspec.structs.replace(sampling, seed=secrets.randbits(31))
        return msgspec.structs.replace(request, sampling=sampling)

    def _filled(self, sampling: Sampling) -> Sampling:
        neutral = Sampling()
        values = {
            name: own
            for name, own in msgspec.structs.asdict(self).items()
            if getattr(sampling, name) == getattr(neutral, name)  # what was asked for goes first
        }
        return msgspec.structs.replace(sampling, own=False, **values)


EVERYDAY = OwnSampling(temperature=0.7, top_p=0.9, min_p=0.05)
GREEDY = OwnSampling(temperature=0.0)

# By how a name begins behind its publisher's; what the models' own generation_config.json says.
_BY_NAME = {
    "nearfar-edge": GREEDY,  # its policy was calibrated so
    "qwen3": OwnSampling(temperature=0.6, top_p=0.95, top_k=20),
    "llama-3.2": OwnSampling(temperature=0.6, top_p=0.9),
    "gemma-3": OwnSampling(temperature=1.0, top_p=0.95, top_k=64),
    "smollm3": OwnSampling(temperature=0.6, top_p=0.95),
}
_MAX_BYTES = 1 << 20  # of a generation_config.json
_SPACES = re.compile(r"[\s_]+")
_GGUF = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def sampling_of_gguf(metadata: Callable[[str], str], *names: str) -> OwnSampling:
    """Return how a GGUF file's tokens are drawn; `names` are those that it goes by."""
    said = {name: value for name, key in _GGUF.items() if (value := metadata(key))}
    return _read(said, names) if said else _by_name(names)


def sampling_of_folder(folder: Path) -> OwnSampling:
    """Return how a Hugging Face folder's tokens are drawn; `do_sample: false` takes the likeliest.

    One that names no temperature, but other values, is drawn at 1, as transformers reads it.
    """
    name = folder.resolve().name
    try:
        config = msgspec.json.decode(read_bytes(folder / "generation_config.json", _MAX_BYTES))
    except (OSError, msgspec.DecodeError, RecursionError):
        config = None
    if not isinstance(config, dict):
        return _by_name((name,))
    if config.get("do_sample") is False:
        return GREEDY
    said = {key: config[key] for key in _GGUF if config.get(key) is not None}
    return _read(said, (name,)) if said.keys() - {"repetition_penalty"} else _by_name((name,))


def _read(said: Mapping[str, Any], names: tuple[str, ...]) -> OwnSampling:
    try:
        return msgspec.convert(dict(said), OwnSampling, strict=False)
    except msgspec.ValidationError as error:
        _log.warning("nearfar: the sampling that %s recommends is left out: %s", names[0], error)
        return _by_name(names)


def _by_name(names: tuple[str, ...]) -> OwnSampling:
    for name in names:
        spelt = _SPACES.sub("-", name.lower())
        for family, own in _BY_NAME.items():
            if re.search(rf"(^|[-/]){re.escape(family)}", spelt):
                return own
    return EVERYDAY


def sampled(sampling: Sampling) -> Sampled | None:
    """Return what is told of an answer's sampling, None where the likeliest tokens were taken."""
    if sampling.temperature == 0.0:
        return None
    return Sampled(**{name: getattr(sampling, name) for name in Sampled.__struct_fields__})
