"""Control tokens that are part of an answer: readers tell calls of tools and thoughts by them."""

from __future__ import annotations

TOLD_MARKS = frozenset(
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
