"""The optional `gguf` package, asked for in one place, so that its absence is told in one line."""

from __future__ import annotations

from backbone.errors import MissingExtra


def require_gguf() -> None:
    """Raise MissingExtra where the package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MissingExtra("gguf", "quantize") from None
