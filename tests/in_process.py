"""The command run in the process of the test, as far as a type: the fixture is in conftest.py."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
