"""The reason of an error is told once, in the system's words, without what is named already."""

from __future__ import annotations

import errno
import os
import socket
import urllib.error

import pytest
import zmq

from backbone.errors import cause


def test_a_taken_port_is_told_once() -> None:
    long = OSError(errno.EADDRINUSE, "Address already in use (while attempting to bind on ...)")
    assert cause(long) == os.strerror(errno.EADDRINUSE)
    assert cause(zmq.ZMQError(errno.EADDRINUSE)) == os.strerror(errno.EADDRINUSE)


def test_a_files_name_is_not_repeated() -> None:
    assert cause(FileNotFoundError(errno.ENOENT, "no", "/a/b")) == os.strerror(errno.ENOENT)


def test_what_urllib_wraps_is_unwrapped() -> None:
    inner = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert cause(urllib.error.URLError(inner)) == os.strerror(errno.ECONNREFUSED)


def test_the_resolvers_numbers_are_not_the_systems() -> None:
    assert cause(socket.gaierror(2, "Name or service not known")).endswith("not known")


def test_text_in_another_encoding_is_said_in_words() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    assert cause(caught.value) == "it is not UTF-8 text"


def test_only_the_first_line_is_told_and_never_nothing() -> None:
    assert cause(ValueError("one\ntwo")) == "one"
    assert cause(KeyError()) == "KeyError"
