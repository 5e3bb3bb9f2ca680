"""How many files and sockets this process may have open: as many as its system allows."""

from __future__ import annotations

_WANTED_FILES = 65_536


def raise_open_files() -> int:
    """Let this process open as many files as its system allows, within reason; return how many."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, whose sockets are no files
        return _WANTED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a system with a lower limit of its own
            wanted = soft
        soft = wanted
    return _WANTED_FILES if soft == resource.RLIM_INFINITY else soft
