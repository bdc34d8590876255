"""``data:`` URLs (RFC 2397) in the spellings that clients send.

Scheme, media type and ``;base64`` may have any case, and other parameters may stand between them. Base64 may
have line breaks, the URL-safe alphabet or percent-encoding, and lack its padding. What a file is, its content
says: the media type is not looked at.
"""

from __future__ import annotations

import base64
from urllib.parse import unquote, unquote_to_bytes

from ernie_wire.errors import InvalidValue

_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n\f"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PIECE_CHARACTERS = 256 << 10
"""Decoding one piece takes about a millisecond, during which no other thread runs."""


def read_data_url(url: str) -> bytes:
    """Return the content of a ``data:`` URL.

    Raises:
        InvalidValue: it has no comma, is empty, or is not base64 although it says so.
    """
    header, comma, data = url.partition(",")
    if not comma:
        raise InvalidValue("a data: URL has no comma; it must be data:image/png;base64,...")
    parameters = [parameter.strip().lower() for parameter in header.split(";")[1:]]
    content = _from_base64(data) if "base64" in parameters else unquote_to_bytes(data)
    if not content:
        raise InvalidValue("a data: URL is empty")
    return content


def _from_base64(text: str) -> bytes:
    if "%" in text:
        text = unquote(text)
    if not text.isascii():
        raise InvalidValue("a data: URL is not base64: it has characters outside ASCII")
    decoded: list[bytes] = []
    rest = b""
    end = len(text.rstrip("= \t\r\n\f"))
    for begin in range(0, end, _PIECE_CHARACTERS):
        piece = text[begin : min(end, begin + _PIECE_CHARACTERS)].encode().translate(_STANDARD, _BLANKS)
        if wrong := piece.translate(None, _ALPHABET):
            raise InvalidValue(f"a data: URL is not base64: it has the character {chr(wrong[0])!r}")
        piece = rest + piece
        whole = len(piece) // 4 * 4
        decoded.append(base64.b64decode(piece[:whole]))
        rest = piece[whole:]
    if len(rest) == 1:
        raise InvalidValue("a data: URL is not base64: it is cut off in the middle of a byte")
    return b"".join((*decoded, base64.b64decode(rest + b"=" * (-len(rest) % 4))))
