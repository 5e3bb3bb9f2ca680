"""Triton kernels of paged decode attention: one new token a sequence, keys read where they lie.

The keys of a sequence are split among programs (Flash-Decoding, arXiv 2311.01282), and the heads
that share keys are the rows of one tile. A cache of eight bits is decoded in the tile, by
arithmetic that every GPU has: Triton knows no e4m3 below compute capability 8.9.
"""

# Triton reads annotations as code of the kernel and knows no typing there: only constants have one.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,import-untyped,unused-ignore]


@triton.jit
def decoded(coded, scale, like, CODE: tl.constexpr):
    """Return a tile [keys, dim] of `like`'s dtype; scale is [keys, 1], CODE as in paged_decode."""
    if CODE == 2:
        # e4m3's seven bits are a float16 of 2**-8 the size, subnormal ones too.
        sign = (coded & 0x80).to(tl.uint16) << 8
        rest = (coded & 0x7F).to(tl.uint16) << 7
        wide = (sign | rest).to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    else:
        wide = coded.to(tl.float32)
    return (wide * scale).to(like.dtype)


@triton.jit(do_not_specialize=["table_width"])
def partial_kernel(
    q_ptr,  # [sequences, heads, dim]
    k_ptr,  # [slots, kv_heads, dim]
    v_ptr,
    k_scale_ptr,  # float32 [slots, kv_heads], read where CODE is not 0
    v_scale_ptr,
    table_ptr,  # int32 [sequences, table_width]
    length_ptr,  # int32 [sequences], tokens with keys
    acc_ptr,  # float32 [sequences, heads, splits, dim]
    top_ptr,  # float32 [sequences, heads, splits], the largest score
    sum_ptr,  # float32, the sum of exp(score - largest)
    scale,
    q_stride,  # elements from one sequence to the next
    table_width,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
    CAP: tl.constexpr,
    EXACT: tl.constexpr,
    CODE: tl.constexpr,
):
    """Attend to one split of one sequence's keys, for the heads that share them."""
    seq, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + seq)
    # Keys are counted without those between the sinks and the window, which nobody reads.
    skipped = tl.maximum(length - WINDOW - SINKS, 0) if WINDOW > 0 else 0
    share = tl.cdiv(tl.cdiv(length - skipped, SPLITS), TILE) * TILE
    begin = split * share
    end = tl.minimum(begin + share, length - skipped)

    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED_DIM)
    heads = kv * GROUP + rows
    inside = (rows < GROUP)[:, None] & (dims < DIM)[None, :]
    q = tl.load(q_ptr + seq * q_stride + heads[:, None] * DIM + dims[None, :], inside, 0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    for start in range(begin, end, TILE):
        seen = start + tl.arange(0, TILE)
        known = seen < end
        at = tl.where(seen < SINKS, seen, seen + skipped)
        block = tl.load(table_ptr + seq * table_width + at // BLOCK, known, 0)
        head = (block.to(tl.int64) * BLOCK + at % BLOCK) * KV_HEADS + kv
        place = head[:, None] * DIM + dims[None, :]
        readable = known[:, None] & (dims < DIM)[None, :]
        if CODE == 0:
            k = tl.load(k_ptr + place, readable, 0.0)  # [TILE, PADDED_DIM]
            v = tl.load(v_ptr + place, readable, 0.0)
        else:
            k_scale = tl.load(k_scale_ptr + head, known, 0.0)[:, None]
            v_scale = tl.load(v_scale_ptr + head, known, 0.0)[:, None]
            k = decoded(tl.load(k_ptr + place, readable, 0), k_scale, q, CODE)
            v = decoded(tl.load(v_ptr + place, readable, 0), v_scale, q, CODE)
        score = tl.dot(q, tl.trans(k), input_precision="ieee" if EXACT else "tf32") * scale
        if CAP > 0.0:
            # cap * tanh(score / cap), by the exponential that every Triton has; at 80, tanh is 1.
            bent = tl.exp(tl.minimum(score * (2.0 / CAP), 80.0))
            score = CAP * (1.0 - 2.0 / (bent + 1.0))
        score = tl.where(known[None, :], score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        keep = tl.exp(top - new_top)
        p = tl.exp(score - new_top[:, None])
        total = total * keep + tl.sum(p, 1)
        product = tl.dot(p.to(v.dtype), v, input_precision="ieee" if EXACT else "tf32")
        acc = acc * keep[:, None] + product
        top = new_top
    part = (seq * KV_HEADS * GROUP + heads) * SPLITS + split
    tl.store(top_ptr + part, top, rows < GROUP)
    tl.store(sum_ptr + part, total, rows < GROUP)
    tl.store(acc_ptr + part[:, None] * DIM + dims[None, :], acc, inside)


@triton.jit
def reduce_kernel(
    acc_ptr,
    top_ptr,
    sum_ptr,
    out_ptr,  # [sequences * heads, dim]
    DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Join the splits of one head of one sequence."""
    row = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, PADDED_DIM)
    top = tl.load(top_ptr + row * SPLITS + splits)
    # A padding row has no keys at all; -inf less -inf would be no number.
    largest = tl.maximum(tl.max(top, 0), -1e30)
    weight = tl.exp(top - largest)
    place = (row * SPLITS + splits)[:, None] * DIM + dims[None, :]
    acc = tl.load(acc_ptr + place, (dims < DIM)[None, :] & (splits >= 0)[:, None], 0.0)
    total = tl.sum(tl.load(sum_ptr + row * SPLITS + splits) * weight, 0)
    out = tl.sum(acc * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + row * DIM + dims, out.to(out_ptr.dtype.element_ty), dims < DIM)
