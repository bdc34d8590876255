"""The flags that say where images and videos may come from, of the frontend and of ``serve``."""

from __future__ import annotations

from pathlib import Path

from ernie_frontend.arguments import UsageError
from ernie_frontend.settings import MediaRules


def read_media_flags(domains: str | None, local_path: str | None, *, allow_private: bool) -> MediaRules:
    """Return the rules that the values of the flags make.

    Raises:
        UsageError: ``--allowed-media-domains`` has something else than hosts, or
            ``--allowed-local-media-path`` is not a directory.
    """
    return MediaRules(
        allowed_domains=_domains(domains), allow_private=allow_private, local_directory=_directory(local_path)
    )


def _domains(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    from ernie_frontend.media.downloads import domain_rule  # slow to import, and most starts name no hosts

    try:
        return tuple(domain_rule(each) for each in text.split(","))
    except ValueError as error:
        raise UsageError(f"--allowed-media-domains: {error}") from None


def _directory(path: str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).is_dir():
        raise UsageError(f"--allowed-local-media-path {path} is not a directory")
    return Path(path).resolve()
