"""PDF files for tests, written by hand: a page for each text, and what is wrong with them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

from pypdf import PdfReader, PdfWriter


def pdf(texts: Sequence[str]) -> bytes:
    """Return a PDF with one page for each text, its lines under one another."""
    return pdf_of([_drawn(text) for text in texts])


def _drawn(text: str) -> bytes:
    lines = " T* ".join(f"({line}) Tj" for line in text.split("\n"))
    return f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode("latin-1")


def pdf_of(contents: Sequence[bytes], *, deflated: bool = False) -> bytes:
    """Return a PDF with one page for each content stream."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(contents)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, content in enumerate(contents):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        data = zlib.compress(content) if deflated else content
        kind = b" /Filter /FlateDecode" if deflated else b""
        head = f"<< /Length {len(data)}".encode() + kind + b" >>\nstream\n"
        objects.append(head + data + b"\nendstream")
    return _assembled(objects)


def _assembled(objects: Sequence[bytes]) -> bytes:
    written, places = bytearray(b"%PDF-1.4\n"), list[int]()
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += f"{number} 0 obj\n".encode() + content + b"\nendobj\n"
    start = len(written)
    written += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    written += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    written += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\n".encode()
    return bytes(written + f"startxref\n{start}\n%%EOF\n".encode())


def locked(data: bytes, password: str, owner: str = "owner") -> bytes:
    """Return a PDF that wants a password; an empty one lets everybody read."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt(password, owner, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def bomb(num_bytes: int) -> bytes:
    """Return a PDF of some kilobytes whose page unpacks to so many bytes."""
    return pdf_of([b"BT /F1 12 Tf (a) Tj " + b" " * num_bytes + b" ET"], deflated=True)
