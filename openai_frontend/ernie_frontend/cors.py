"""The CORS flags, under vLLM's names: which web pages of other origins may use the API.

Starlette's middleware does the work.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s,*]+", re.ASCII)
_TOKEN = re.compile(r"\*|[A-Za-z0-9!#$%&'+.^_`|~-]+")
READABLE_HEADERS = ("X-Request-Id", "Retry-After", "Server-Timing", "Warning")
"""Response headers that a page's script may read, in addition to those that it always may."""


class BadCorsFlags(ValueError):
    """The flags are not valid; the message is one line for the user."""


@dataclass(frozen=True)
class Cors:
    """The cross-origin requests that are allowed.

    Attributes:
        origins: origins of pages as browsers name them, SCHEME://HOST[:PORT]; or ``*`` for all.
        methods: of their requests; ``*`` for all.
        headers: that their requests may have; ``*`` for all.
        has_credentials: whether browsers send cookies and certificates with their requests.
    """

    origins: tuple[str, ...]
    methods: tuple[str, ...] = ("*",)
    headers: tuple[str, ...] = ("*",)
    has_credentials: bool = False


def read_cors(
    origins: str | None, methods: str | None, headers: str | None, *, allow_credentials: bool
) -> Cors | None:
    """Return the settings in the flags, or None if no other origin is allowed.

    Args:
        origins: ``--allowed-origins``, a JSON array of strings; None if the flag was not given.
        methods: ``--allowed-methods``, the same.
        headers: ``--allowed-headers``, the same.
        allow_credentials: ``--allow-credentials``.

    Raises:
        BadCorsFlags: a value is not such an array, or a flag has no meaning without another.
    """
    if origins is None:
        others = {
            "allowed-methods": methods,
            "allowed-headers": headers,
            "allow-credentials": allow_credentials,
        }
        lone = next((name for name, value in others.items() if value), None)
        if lone is not None:
            raise BadCorsFlags(
                f"--{lone} needs --allowed-origins, without which no page of another origin is allowed"
            )
        return None
    cors = Cors(
        # Browsers write them in lower case.
        origins=_read_words(
            "--allowed-origins", origins.lower(), _ORIGIN, "an origin: SCHEME://HOST[:PORT], or *"
        ),
        methods=_read_words("--allowed-methods", methods or '["*"]', _TOKEN, "a method, or *"),
        headers=_read_words("--allowed-headers", headers or '["*"]', _TOKEN, "the name of a header, or *"),
        has_credentials=allow_credentials,
    )
    if cors.has_credentials and "*" in cors.origins:
        raise BadCorsFlags("--allow-credentials lets every page act as its visitor; name the --allowed-origins")
    return cors


def _read_words(flag: str, text: str, pattern: re.Pattern[str], expected: str) -> tuple[str, ...]:
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise BadCorsFlags(f'{flag} {text} is not a JSON array of strings, like ["..."]')
    for word in words:
        if pattern.fullmatch(word) is None:
            raise BadCorsFlags(f"{flag}: {word!r} is not {expected}")
    return tuple(words)
