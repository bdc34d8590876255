"""Who is asked: a base URL, a model's name and a key, checked before anything is sent.

This module must not know what is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx

from ernie_cli.errors import CommandError
from ernie_cli.evaluation.terminal_text import is_unicode, shown

_MOST_PORT = 65535
_VISIBLE_ASCII = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Server:
    """An OpenAI API.

    Attributes:
        url: its base, without ``/v1``.
        model: the model's name there.
        api_key: or None; never shown.

    Raises:
        CommandError: one of them cannot be sent; says which.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _is_url(self.url):
            raise CommandError(
                f"--url '{shown(self.url)}' is no http://HOST:PORT with a port of 1 to {_MOST_PORT}; "
                "give the server's, for example http://127.0.0.1:8188"
            )
        if not is_unicode(self.model):
            raise CommandError(f"--model '{shown(self.model)}' is not UTF-8 text; give the model's name there")
        if self.api_key is not None and not _VISIBLE_ASCII.fullmatch(self.api_key):
            raise CommandError(
                "--api-key must be of visible ASCII characters, without spaces; give the server's key"
            )


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return (
        url.scheme in ("http", "https") and bool(url.host) and (url.port is None or 0 < url.port <= _MOST_PORT)
    )
