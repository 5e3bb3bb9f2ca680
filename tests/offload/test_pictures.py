"""Pictures: told by their bytes, and rid of what a camera wrote beside them."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.errors import RequestError
from offload.messages import Message, Picture, Request
from offload.pictures import (
    MAX_PICTURE_BYTES,
    bare,
    blind,
    picture_at,
    picture_of,
    shows_picture,
    without_metadata,
)

SECRET = b"52.5200 N 13.4050 E, Anna's phone"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, order: str = ">") -> bytes:
    mark = b"MM\0*" if order == ">" else b"II*\0"
    entries = [(0x010F, 2, len(SECRET), 40), (0x0112, 3, 1, None)]
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        head += struct.pack(f"{order}HHI", tag, kind, count)
        head += (
            struct.pack(f"{order}HH", orientation, 0)
            if value is None
            else struct.pack(f"{order}I", value)
        )
    return b"Exif\0\0" + head + struct.pack(f"{order}I", 0) + SECRET


def jpeg(*extra: bytes, tail: bytes = b"") -> bytes:
    """A progressive picture's skeleton: two scans with stuffed bytes and restarts in them."""
    jfif = segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\x02\x01" + SECRET[:6])
    scan = segment(0xDA, b"\x01\x01\0\0\x3f\0") + b"\x12\xff\0\x34\xff\xd0\x56"
    return (
        b"\xff\xd8"
        + jfif
        + b"".join(extra)
        + segment(0xDB, b"\0" * 65)
        + scan
        + scan
        + b"\xff\xd9"
        + tail
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*extra: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0\x7f")
    whole = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_jpeg_keeps_its_picture_and_nothing_else() -> None:
    told = jpeg(
        segment(0xE1, exif(1)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET),
        segment(0xE2, b"MPF\0" + SECRET),
        segment(0xED, SECRET),
        segment(0xFE, SECRET),
        tail=SECRET,
    )
    plain = picture_of(told)
    assert plain.media_type == "image/jpeg" and plain.data == picture_of(jpeg()).data
    assert not any(SECRET[at : at + 6] in plain.data for at in range(len(SECRET) - 6))
    assert plain.data.count(b"\xff\xda") == 2 and plain.data.endswith(b"\xff\xd9")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_stays_as_it_was_turned(order: str, orientation: int) -> None:
    plain = picture_of(jpeg(segment(0xE1, exif(orientation, order))))
    assert SECRET not in plain.data
    assert (b"Exif" in plain.data) == (orientation != 1)
    if orientation != 1:
        at = plain.data.index(struct.pack(">HHI", 0x0112, 3, 1))
        assert struct.unpack_from(">H", plain.data, at + 8) == (orientation,)


def test_a_png_and_a_webp_keep_their_picture_and_nothing_else() -> None:
    told = png(chunk(b"tEXt", SECRET), chunk(b"eXIf", exif(6)[6:]), chunk(b"tIME", SECRET))
    assert picture_of(told + SECRET).data == png()
    told = webp(
        (b"VP8X", bytes([0x3C, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        (b"ICCP", SECRET),
        (b"VP8 ", b"\1\2\3"),
        (b"EXIF", SECRET),
        (b"XMP ", SECRET),
    )
    kept = webp((b"VP8X", bytes([0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0])), (b"VP8 ", b"\1\2\3"))
    assert picture_of(told).data == kept


@pytest.mark.parametrize("whole", [jpeg(), png(), webp((b"VP8 ", b"\1\2\3\4"))])
def test_what_is_cut_off_is_refused_and_what_is_plain_stays(whole: bytes) -> None:
    plain = picture_of(whole)
    assert without_metadata(plain) is plain
    for end in range(16, len(whole) - 1):
        with pytest.raises(RequestError, match=r"cut off|damaged"):
            picture_of(whole[:end])


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"%PDF-1.4", b"\xff\xd8"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(RequestError, match="no picture"):
        picture_of(data)
    with pytest.raises(RequestError, match="at most"):
        picture_of(b"\xff\xd8\xff" + b"\0" * MAX_PICTURE_BYTES)


@given(st.sampled_from((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBP")), st.binary())
def test_no_bytes_do_worse_than_be_refused(head: bytes, rest: bytes) -> None:
    try:
        plain = picture_of(head + rest)
    except RequestError:
        return
    assert len(plain.data) <= len(head + rest) + 64


def test_a_picture_comes_in_the_request_alone() -> None:
    said = base64.b64encode(png()).decode()
    assert picture_at(f"data:image/png;base64,{said}").data == png()
    for url in ("https://example.com/a.png", "file:///etc/passwd", "data:text/plain;base64,aaaa"):
        with pytest.raises(RequestError, match="no address is fetched"):
            picture_at(url)
    with pytest.raises(RequestError, match="no base64"):
        picture_at("data:image/png;base64,%%%")


def test_who_cannot_see_is_told_that_there_is_a_picture() -> None:
    shown = Picture(media_type="image/jpeg", data=jpeg(segment(0xE1, exif(1))))
    request = Request(messages=(Message(role="user", content="what?", pictures=(shown,)),))
    assert shows_picture(request)
    (told,) = blind(request).messages
    assert told.pictures == () and "cannot see" in told.content and told.content.endswith("what?")
    (left,) = bare(request).messages
    assert SECRET not in left.pictures[0].data
    assert "Picture(image/jpeg" in repr(request) and "52.52" not in repr(request)
