"""Pictures: told by their first bytes, within bounds, and without what a camera wrote beside them.

JPEG (ITU T.81), PNG (W3C) and WebP (RFC 9649) are lists of segments or chunks. Those that hold the
picture are kept; EXIF (place, time, device), XMP, comments, small previews and whatever stands
behind the end are not. Of EXIF only the orientation stays, in a segment of its own.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator

import msgspec

from offload.errors import RequestError
from offload.messages import Message, Picture, PictureType, Request

MAX_PICTURE_BYTES = 5_000_000

_SEEN = "[a picture stands here, which this model cannot see]"
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,40};base64,", re.IGNORECASE)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    [
        "IHDR",
        "PLTE",
        "IDAT",
        "IEND",
        "tRNS",
        "gAMA",
        "cHRM",
        "sRGB",
        "sBIT",
        "bKGD",
        "acTL",
        "fcTL",
        "fdAT",
    ]
)
_WEBP_KEPT = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"})
_WEBP_TOLD = 0x20 | 0x08 | 0x04  # flags of VP8X: a colour profile, EXIF, XMP
_JFIF, _ADOBE, _EXIF, _COMMENT = 0xE0, 0xEE, 0xE1, 0xFE
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_ORIENTATION = 0x0112


def picture_of(data: bytes) -> Picture:
    """Return the picture in some bytes, without its metadata. Raises RequestError for none."""
    kind = _kind(data)
    if kind is None:
        raise RequestError("it is no picture that can be read; save it as JPEG, PNG or WebP")
    if len(data) > MAX_PICTURE_BYTES:
        raise RequestError(
            f"the picture has {len(data):,} bytes and at most {MAX_PICTURE_BYTES:,} are taken; "
            "make it smaller"
        )
    return without_metadata(Picture(media_type=kind, data=data))


def picture_at(url: str) -> Picture:
    """Return the picture in a data: URL; no other address is fetched. Raises RequestError."""
    head = _DATA_URL.match(url)
    if head is None:
        raise RequestError(
            "a picture must come in the request, as data:image/jpeg;base64,...; no address is "
            "fetched, since that would tell its server what is asked"
        )
    try:
        return picture_of(base64.b64decode(url[head.end() :], validate=True))
    except binascii.Error:
        raise RequestError("the picture is no base64; encode its bytes again") from None


def looks_like_picture(data: bytes) -> bool:
    """Whether a file's first bytes are those of a picture that can be taken."""
    return _kind(data) is not None


def without_metadata(picture: Picture) -> Picture:
    """Return the picture with nothing in it but itself. Raises RequestError for a damaged one."""
    strip = {"image/jpeg": _plain_jpeg, "image/png": _plain_png, "image/webp": _plain_webp}
    try:
        data = b"".join(strip[picture.media_type](picture.data))
    except (struct.error, IndexError, ValueError):
        raise RequestError("the picture is damaged or cut off; save it again") from None
    return picture if data == picture.data else msgspec.structs.replace(picture, data=data)


def shows_picture(request: Request) -> bool:
    """Whether what is asked last comes with a picture."""
    questions = [each for each in request.messages if each.role == "user"]
    return bool(questions and questions[-1].pictures)


def blind(request: Request) -> Request:
    """Return the request for a model that sees none: each picture is only said to be there."""
    if not any(message.pictures for message in request.messages):
        return request
    return msgspec.structs.replace(request, messages=tuple(map(_told, request.messages)))


def bare(request: Request) -> Request:
    """Return the request with its pictures as they may leave: without their metadata."""
    if not any(message.pictures for message in request.messages):
        return request
    messages = tuple(
        msgspec.structs.replace(each, pictures=tuple(map(without_metadata, each.pictures)))
        for each in request.messages
    )
    return msgspec.structs.replace(request, messages=messages)


def _told(message: Message) -> Message:
    if not message.pictures:
        return message
    lines = [*[_SEEN] * len(message.pictures), message.content]
    return msgspec.structs.replace(message, content="\n".join(lines), pictures=())


def _kind(data: bytes) -> PictureType | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(_PNG):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _plain_jpeg(data: bytes) -> Iterator[bytes]:
    yield data[:2]
    at, turned = 2, False
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker == _EOI:
            yield data[at : at + 2]
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise ValueError("a segment is cut off")
        if marker == _EXIF and not turned and (told := _orientation(data[at + 4 : end])):
            turned = True
            yield _exif_of(told)
        if marker in (_JFIF, _ADOBE) or not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            yield data[at:end] if marker != _JFIF else _plain_jfif(data[at:end])
        at = end
        if marker == _SOS:
            end = _scan_end(data, at)
            yield data[at:end]
            at = end


def _plain_jfif(segment: bytes) -> bytes:
    """Return a JFIF segment without its small preview; extensions (JFXX) hold nothing else."""
    if segment[4:9] != b"JFIF\0" or len(segment) < 18:
        return b""
    return segment[:2] + struct.pack(">H", 16) + segment[4:16] + b"\0\0"


def _scan_end(data: bytes, at: int) -> int:
    """Return where the next marker stands that is neither a stuffed byte nor a restart."""
    while True:
        at = data.index(b"\xff", at)
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _orientation(exif: bytes) -> int:
    """Return the orientation that EXIF tells, 2 to 8; 0 where it is upright or not told."""
    if not exif.startswith(b"Exif\0\0"):
        return 0
    body = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None or len(body) < 8:
        return 0
    try:
        (first,) = struct.unpack_from(f"{order}I", body, 4)
        (num,) = struct.unpack_from(f"{order}H", body, first)
        for entry in range(min(num, 200)):
            tag, kind, count, value = struct.unpack_from(
                f"{order}HHIH", body, first + 2 + 12 * entry
            )
            if tag == _ORIENTATION and kind == 3 and count == 1:
                return value if 2 <= value <= 8 else 0
    except struct.error:
        return 0
    return 0


def _exif_of(orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, _ORIENTATION, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _plain_png(data: bytes) -> Iterator[bytes]:
    yield data[:8]
    at, kind = 8, ""
    while kind != "IEND":
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8].decode("latin-1"), at + 12 + length
        if end > len(data):
            raise ValueError("a chunk is cut off")
        if kind in _PNG_KEPT:
            yield data[at:end]
        at = end


def _plain_webp(data: bytes) -> Iterator[bytes]:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 > len(data):
        raise ValueError("it is cut off")
    kept, at = [], 12
    while at + 8 <= size + 8:
        kind = data[at : at + 4]
        (length,) = struct.unpack_from("<I", data, at + 4)
        end = at + 8 + length + length % 2
        if at + 8 + length > len(data):
            raise ValueError("a chunk is cut off")
        if kind == b"VP8X":
            head = data[at + 8 : at + 8 + length]
            kept.append(data[at : at + 8] + bytes([head[0] & ~_WEBP_TOLD]) + head[1:])
        elif kind in _WEBP_KEPT:
            kept.append(data[at:end])
        at = end
    body = b"WEBP" + b"".join(kept)
    yield b"RIFF" + struct.pack("<I", len(body)) + body
