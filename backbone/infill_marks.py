"""Control tokens by which models are asked to fill in the middle of a text."""

from __future__ import annotations

FILL_MARKS = (  # before the text, before what follows it, and before what is to be written
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama; the one before is DeepSeek's
    ("<PRE>", "<SUF>", "<MID>"),
)
NO_FILL_MARKS = "this model has no tokens to fill in the middle of a text; leave suffix out"
