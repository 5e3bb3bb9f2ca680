"""Control tokens that matter to readers: those within answers, and those of fill-in-the-middle."""

from __future__ import annotations

ANSWER_MARKS = frozenset(
    {
        "[TOOL_CALLS]",  # Mistral's, with the two that follow it
        "[CALL_ID]",
        "[ARGS]",
        "<|python_tag|>",  # Llama 3's
        "<tool_call>",  # Qwen's and Hermes', where a file calls them control tokens
        "</tool_call>",
        "<think>",
        "</think>",
        "[THINK]",
        "[/THINK]",
    }
)


FILL_MARKS = (  # before the text, before what follows it, and before what is to be written
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # Code Llama; the one before is DeepSeek's
    ("<PRE>", "<SUF>", "<MID>"),
)
NO_FILL_MARKS = "this model has no tokens to fill in the middle of a text; leave suffix out"
