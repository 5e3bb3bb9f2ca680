"""Keeps a fitted prior on disk: one npz archive of plain arrays, never pickle."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.error_causes import cause
from offload.errors import SettingsError
from offload.policy.serving.features import GRAMS, NUM_BUCKETS, TfIdf
from offload.policy.serving.kernel import BANDWIDTHS, Measured, Support
from offload.policy.serving.logistic import Head
from offload.policy.serving.prior import Prior

VERSION = 1
_Arrays = Mapping[str, npt.NDArray[Any]]


def save_prior(prior: Prior, path: Path) -> None:
    """Write a prior beside `path` and rename it there. Raises SettingsError where it cannot."""
    arrays: dict[str, Any] = {
        "version": np.array(VERSION),
        "strength": np.array(prior.strength),
        "weights": np.array([head.weights for head in prior.heads]),
        "biases": np.array([head.bias for head in prior.heads]),
    }
    for group, support in zip(prior.groups, prior.supports, strict=True):
        arrays[f"{group.group}.spread"] = np.array([group.centre, group.scale])
        arrays[f"{group.group}.rows"] = support.rows
    for tfidf, weights in zip(prior.grams, prior.gram_weights, strict=True):
        arrays[f"{tfidf.kind}.buckets"] = tfidf.buckets.astype(np.int32)
        arrays[f"{tfidf.kind}.idf"] = tfidf.idf
        arrays[f"{tfidf.kind}.weights"] = weights
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez_compressed(file, **arrays)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written ({error.strerror}); free it") from None


def load_prior(path: Path) -> Prior:
    """Read a prior that `save_prior` wrote. Raises SettingsError where it is not one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _built({name: archive[name] for name in archive.files})
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from None


def _built(arrays: _Arrays) -> Prior:
    if int(arrays["version"]) != VERSION:
        raise ValueError(f"version {int(arrays['version'])}, this nearfar reads {VERSION}")
    weights, biases = arrays["weights"], arrays["biases"]
    if weights.ndim != 2 or len(weights) != 2 or biases.shape != (2,):
        raise ValueError("it has no two heads")
    groups = [name for name in BANDWIDTHS if f"{name}.rows" in arrays]
    return Prior(
        groups=tuple(Measured(name, *_spread(arrays, name)) for name in groups),
        supports=tuple(Support.of(name, _rows(arrays, name, weights.shape[1])) for name in groups),
        grams=tuple(_grams(arrays, kind) for kind in GRAMS),
        gram_weights=tuple(_checked(arrays, kind) for kind in GRAMS),
        heads=(Head(weights[0], float(biases[0])), Head(weights[1], float(biases[1]))),
        strength=float(arrays["strength"]),
    )


def _spread(arrays: _Arrays, group: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    spread, width = arrays[f"{group}.spread"], arrays[f"{group}.rows"].shape[-1]
    if spread.shape != (2, width):
        raise ValueError(f"the measures of {group} do not fit together")
    return spread[0], spread[1]


def _rows(arrays: _Arrays, group: str, num_labels: int) -> npt.NDArray[Any]:
    rows = arrays[f"{group}.rows"]
    if rows.ndim != 2 or len(rows) != num_labels:
        raise ValueError(f"the labelled rows of {group} do not fit the heads")
    return rows


def _grams(arrays: _Arrays, kind: str) -> TfIdf:
    buckets, idf = arrays[f"{kind}.buckets"].astype(np.int64), arrays[f"{kind}.idf"]
    if len(buckets) != len(idf) or (len(buckets) and not 0 <= buckets.min() <= buckets.max()):
        raise ValueError(f"the n-grams of {kind} do not fit together")
    if len(buckets) and buckets.max() >= NUM_BUCKETS:
        raise ValueError(f"the n-grams of {kind} are out of range")
    return TfIdf(kind, buckets, idf)


def _checked(arrays: _Arrays, kind: str) -> npt.NDArray[Any]:
    weights = arrays[f"{kind}.weights"]
    if weights.shape != (len(arrays[f"{kind}.buckets"]), 2):
        raise ValueError(f"the weights of {kind} do not fit its n-grams")
    return weights


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(f"the prior {path} cannot be read ({cause(error)}); calibrate again")
