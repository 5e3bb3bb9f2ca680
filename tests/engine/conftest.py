"""The near runtimes' fixtures, for the modules that both of them share."""

from __future__ import annotations

from tests.edge import conftest as edge

always_drafted = edge.always_drafted
make_tiny_gguf = edge.make_tiny_gguf
steady_threads = edge.steady_threads
stories = edge.stories
stories_gguf = edge.stories_gguf
tiny_gguf = edge.tiny_gguf
