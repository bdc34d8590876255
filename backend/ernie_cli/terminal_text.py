"""Texts of files and servers made safe for a terminal: one line of printable characters, not too long."""

from __future__ import annotations

MAX_SHOWN = 80
_LONGEST_WORD = 20


def escaped(text: str) -> str:
    """Return a text with what is not printable (control characters, line ends, lone surrogates) as escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shown(text: str, most: int = MAX_SHOWN) -> str:
    """Return an escaped text of at most ``most`` characters; if cut, it ends in "…", after a word if it can."""
    line = escaped(text[: most + 1])
    if len(line) <= most:
        return line
    line = line[: most - 1]
    words, _, last = line.rpartition(" ")
    return f"{words if words and len(last) <= _LONGEST_WORD else line}…"


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded in UTF-8: it holds no lone surrogate."""
    return not any("\ud800" <= each <= "\udfff" for each in text)
