"""``data:`` URLs (RFC 2397) in the spellings that clients send.

Scheme, media type and ``;base64`` may have any case, and other parameters may stand between them. Base64 may
have line breaks, the URL-safe alphabet or percent-encoding, and lack its padding. What a file is, its content
says: the media type is not looked at.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from ernie_wire.errors import InvalidValue

_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n\f"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_MAX_HEADER_CHARACTERS = 4096
_PIECE_CHARACTERS = 256 << 10
"""Decoding one piece takes about a millisecond, during which no other thread runs."""
_ESCAPES = re.compile(rb"(?:%[0-9A-Fa-f]{2}){1,1024}")
_ESCAPE_CHARACTERS = 3


def read_data_url(url: str) -> bytes:
    """Return the content of a ``data:`` URL.

    Raises:
        InvalidValue: it has no comma, is empty, or is not base64 although it says so.
    """
    header, comma, _ = url[:_MAX_HEADER_CHARACTERS].partition(",")
    if not comma:
        is_long = len(url) > _MAX_HEADER_CHARACTERS
        place = f" among its first {_MAX_HEADER_CHARACTERS} characters" if is_long else ""
        raise InvalidValue(f"a data: URL has no comma{place}; it must be data:image/png;base64,...")
    data = url[len(header) + 1 :]
    parameters = [parameter.strip().lower() for parameter in header.split(";")[1:]]
    content = _from_base64(data) if "base64" in parameters else b"".join(_unquoted(data))
    if not content:
        raise InvalidValue("a data: URL is empty")
    return content


def _from_base64(text: str) -> bytes:
    decoded: list[bytes] = []
    rest = padding = b""
    for unquoted in _unquoted(text):
        padded = padding + unquoted.translate(_STANDARD, _BLANKS)
        piece = padded.rstrip(b"=")
        padding = padded[len(piece) :][:1]  # one is enough to find what follows it, which is wrong
        if not piece.isascii():
            raise InvalidValue("a data: URL is not base64: it has characters outside ASCII")
        if wrong := piece.translate(None, _ALPHABET):
            raise InvalidValue(f"a data: URL is not base64: it has the character {chr(wrong[0])!r}")
        piece = rest + piece
        whole = len(piece) // 4 * 4
        decoded.append(base64.b64decode(piece[:whole]))
        rest = piece[whole:]
    if len(rest) == 1:
        raise InvalidValue("a data: URL is not base64: it is cut off in the middle of a byte")
    return b"".join((*decoded, base64.b64decode(rest + b"=" * (-len(rest) % 4))))


def _unquoted(text: str) -> Iterator[bytes]:
    """Yield a text without its percent-encoding, in pieces; urllib takes 80 bytes for a character."""
    begin = 0
    while begin < len(text):
        end = begin + _PIECE_CHARACTERS
        if end < len(text):  # an escape is not divided
            cut = text.rfind("%", end - _ESCAPE_CHARACTERS + 1, end)
            end = cut if cut > begin else end
        yield _ESCAPES.sub(_run, text[begin:end].encode(errors="surrogatepass"))
        begin = end


def _run(escapes: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escapes[0].replace(b"%", b"").decode())
