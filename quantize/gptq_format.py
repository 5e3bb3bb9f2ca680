"""The AutoGPTQ checkpoint format: four tensors per matrix, integers packed into int32 words.

Version 1 stores a zero point less one, version 2 as it is; both say "gptq" in the wild, so the
version is told from the numbers where they tell it (a symmetric matrix has only one zero).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backbone.errors import CheckpointError
from quantize.gptq import GptqOptions, QuantizedMatrix

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def pack(matrix: QuantizedMatrix, bits: int, checkpoint_format: str = "gptq") -> dict[str, Tensor]:
    """Return a matrix as its four tensors; "gptq" is version 1, "gptq_v2" version 2.

    qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32], scales float16
    [groups, out], g_idx int32 [in].
    """
    per_word = 32 // bits
    num_outputs, num_inputs = matrix.codes.shape
    if num_inputs % per_word or num_outputs % per_word:
        raise CheckpointError(
            f"a {num_outputs} x {num_inputs} matrix cannot be packed into {bits}-bit GPTQ words; "
            f"both sizes must be multiples of {per_word}"
        )
    less = 1 if checkpoint_format == "gptq" else 0
    if int(matrix.zeros.min()) < less:
        raise CheckpointError(
            "version 1 of the GPTQ format cannot hold a zero point of 0; choose gptq_v2"
        )
    return {
        "qweight": _pack_rows(matrix.codes.T.int(), bits),
        "qzeros": _pack_rows((matrix.zeros - less).T.contiguous(), bits).T.contiguous(),
        "scales": matrix.scales.half().contiguous(),
        "g_idx": matrix.group_of.int().contiguous(),
    }


def unpack(parts: Mapping[str, Tensor], quantization: Mapping[str, Any]) -> QuantizedMatrix:
    """Return the matrix that the four tensors hold, whichever version wrote them.

    `quantization` is the checkpoint's `quantization_config`. Raises CheckpointError where parts
    are missing or do not belong together.
    """
    missing = [name for name in PARTS if name not in parts]
    if missing == ["g_idx"]:
        raise CheckpointError(
            "a GPTQ matrix has no g_idx, which names the group of each input: the folder is for "
            "a loader that needs none; quantize the original with `nearfar quantize gptq`"
        )
    if missing:
        raise CheckpointError(f"a GPTQ matrix lacks {', '.join(missing)}; fetch the model again")
    bits = int(quantization["bits"])
    if bits not in (4, 8):
        raise CheckpointError(f"GPTQ with {bits} bits cannot be read; use a 4 or 8 bit checkpoint")
    codes = _unpack_rows(parts["qweight"], bits).T.contiguous()
    stored = _unpack_rows(parts["qzeros"].T.contiguous(), bits).T.contiguous()
    scales = parts["scales"].float()
    if codes.shape[0] != scales.shape[1] or stored.shape != scales.shape:
        raise CheckpointError("the parts of a GPTQ matrix differ in size; fetch the model again")
    shift = 0 if stores_true_zeros(stored, bits, quantization) else 1
    return QuantizedMatrix(
        codes=codes.to(torch.uint8),
        scales=scales,
        zeros=stored.int() + shift,
        group_of=parts["g_idx"].int(),
        error=0.0,
        damping=0.0,
        num_dead=0,
    )


def stores_true_zeros(stored: Tensor, bits: int, quantization: Mapping[str, Any]) -> bool:
    """Tell version 2 (zeros as they are) from version 1 (less one), by value where possible."""
    middle = 1 << (bits - 1)
    if quantization.get("sym", True):
        if bool((stored == middle).all()):
            return True
        if bool((stored == middle - 1).all()):
            return False
    # Zeros that vary tell nothing: believe the label.
    return quantization.get("checkpoint_format") == "gptq_v2"


def quantization_config(options: GptqOptions) -> dict[str, Any]:
    """Return what `config.json` says under `quantization_config`."""
    return {
        "quant_method": "gptq",
        "bits": options.bits,
        "group_size": options.group_size,
        "desc_act": options.desc_act,
        "sym": options.sym,
        "damp_percent": options.damping,
        "lm_head": False,
        "true_sequential": options.true_sequential,
        "checkpoint_format": options.checkpoint_format,
        "pack_dtype": "int32",
        "meta": {"quantizer": ["nearfar:0.1.0"]},
    }


def _pack_rows(values: Tensor, bits: int) -> Tensor:
    """Pack int32 [rows, columns], below 2^bits, into [rows * bits / 32, columns]."""
    per_word = 32 // bits
    lanes = values.long().reshape(-1, per_word, values.shape[1])
    shifts = (torch.arange(per_word, device=values.device) * bits).view(1, -1, 1)
    words = (lanes << shifts).sum(1)
    # The highest lane fills the sign bit.
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int().contiguous()


def _unpack_rows(words: Tensor, bits: int) -> Tensor:
    per_word = 32 // bits
    shifts = (torch.arange(per_word, device=words.device) * bits).view(1, -1, 1)
    lanes = (words.long().unsqueeze(1) >> shifts) & ((1 << bits) - 1)
    return lanes.reshape(-1, words.shape[1])
