"""``file://`` URLs: regular files under the directory that the operator allows, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ernie_frontend.http_errors import MediaNotAllowed, MediaUnavailable
from ernie_wire.errors import InvalidValue

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NOT_UNDER = "the file is not under the directory of --allowed-local-media-path"


def read_local_file(url: str, directory: Path | None, max_bytes: int) -> bytes:
    """Return the content of a file.

    The error about a path outside of the directory is the same whether a file is there or not.

    Args:
        url: begins with ``file:``.
        directory: the allowed one, without symbolic links in its path; None: none is allowed.
        max_bytes: of the file.

    Raises:
        InvalidRequest: it may not be read, cannot be read, is no regular file, or is empty or too large.
    """
    if directory is None:
        raise MediaNotAllowed(
            "file: URLs are not allowed here; send the data itself, data:..., or serve with"
            " --allowed-local-media-path"
        )
    path = os.path.realpath(_path_of(url))
    if not Path(path).is_relative_to(directory):
        raise MediaNotAllowed(_NOT_UNDER)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # before opening, which a device may take as a command
            raise MediaNotAllowed("the path is not that of a regular file")
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise MediaUnavailable(f"the file cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        # Another file may have taken its place since it was looked at.
        if not Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(directory):
            raise MediaNotAllowed(_NOT_UNDER)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MediaNotAllowed("the path is not that of a regular file")
        content = file.read(max_bytes + 1)
    if not 0 < len(content) <= max_bytes:
        what = f"has more than {max_bytes} bytes, the limit of one medium" if content else "is empty"
        raise InvalidValue(f"the file {what}")
    return content


def _path_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidValue(f"a file: URL is not valid: {error}") from None
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise InvalidValue("a file: URL must be file:///PATH, with an absolute path")
    if parts.query or parts.fragment:
        raise InvalidValue("a file: URL has a ? or #; if they are part of the file's name, send %3F or %23")
    return path
