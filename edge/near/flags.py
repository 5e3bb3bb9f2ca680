"""Flags of the commands that open the near model: which one, how it runs, and how it answers."""

from __future__ import annotations

from typing import Annotated

import typer

from backbone.terminal_text import echo

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A GGUF file, or the name of a model on this device."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use no network at all.")]
LocalOnly = Annotated[
    bool, typer.Option("--local-only", help="Let nothing of this text leave the device.")
]
System = Annotated[str | None, typer.Option("--system", "-s", help="A system prompt.")]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", "-p", help="A preset of `nearfar presets`: its flags are the default."
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="The token limit of an answer.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        help="0 always takes the likeliest token; without one tokens are drawn as the model's own "
        "files recommend.",
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="The same seed draws the same answer again; --json shows it.")
]
Window = Annotated[
    int | None,
    typer.Option("--window", help="Newest tokens kept when the context is full; 0 refuses."),
]
Kv = Annotated[
    str | None,
    typer.Option(
        "--kv",
        help="The type of the KV cache: auto, f16, q8_0, k8v4, q4_0; of GGUF files also f32, "
        "q5_0, q5_1, q4_1, iq4_nl or two as q8_0/q4_0; of folders, which torch runs, also int8, "
        "int4, int2.",
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        "--draft",
        help="A draft model for speculative decoding: a smaller GGUF of the same vocabulary.",
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", help="A LoRA adapter of the model, FILE.gguf or FILE.gguf:SCALE; may be repeated."
    ),
]


def _renamed(given: bool) -> bool:
    if given:
        echo("nearfar: --cloud is called --far now", err=True)
    return given


Far = Annotated[bool, typer.Option("--far", help="Ask the far model.")]
OldFar = Annotated[
    bool,
    typer.Option("--cloud", help="The older name of --far.", hidden=True, callback=_renamed),
]
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        "-f",
        help="Attach a text, a PDF or a folder of them; may be repeated. Of long ones the passages "
        "that may answer are read.",
    ),
]
