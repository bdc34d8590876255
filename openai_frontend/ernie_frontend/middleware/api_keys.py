"""The API keys of ``/v1``: their sources, and the check of a key.

Keys in a file can be changed while the service runs. No mistake opens the API: a source without a key is
refused at the start, and later the keys that were read before stay valid.
"""

from __future__ import annotations

import hmac
import logging
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

API_KEY_VARIABLE = "FD_API_KEY"
_LOOK_S = 1.0
_MAX_BYTES = 1 << 20
_OTHERS_RIGHTS = 0o077

logger = logging.getLogger(__name__)


class NoKey(ValueError):
    """A source of keys holds none; the message is one line for the user."""


def split_keys(text: str, source: str) -> tuple[str, ...]:
    """Return comma-separated keys.

    Args:
        text: the keys.
        source: where the text comes from, for the message.

    Raises:
        NoKey: there is none.
    """
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if not keys:
        raise NoKey(f"{source} holds no key, which would leave the API open; give one or leave it out")
    return keys


def environment_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys in the environment variable; an empty variable counts as none at all.

    Raises:
        NoKey: the variable holds something, but no key.
    """
    text = environment.get(API_KEY_VARIABLE)
    return split_keys(text, f"${API_KEY_VARIABLE}") if text else ()


def read_key_file(path: Path) -> tuple[str, ...]:
    """Return the keys in a file: one a line; empty lines and those that begin with # are left out.

    Raises:
        NoKey: there is none, or the file cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NoKey(f"{path} is not a regular file")  # a pipe would be read once, or keep us waiting
        if status.st_size > _MAX_BYTES:
            raise NoKey(f"{path} has {status.st_size} bytes; at most {_MAX_BYTES} are read")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise NoKey(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NoKey(f"{path} is not text in UTF-8") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise NoKey(f"{path} holds no key; write one a line")
    return keys


class ApiKeys:
    """The keys that are accepted.

    Args:
        fixed: keys that do not change.
        file: file of further keys, checked for changes once a second at most; or None.
        clock: the time in seconds.
    """

    def __init__(
        self, fixed: tuple[str, ...] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = tuple(key.encode() for key in fixed)
        self._file = file
        self._clock = clock
        self._from_file: tuple[bytes, ...] = ()
        self._version: tuple[int, ...] = ()
        self._fault = ""
        self._next_look_s = 0.0
        self._look()

    @property
    def are_required(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._fixed) or self._file is not None

    def has(self, key: bytes) -> bool:
        """Return whether a key is accepted."""
        if self._clock() >= self._next_look_s:
            self._look()
        # Constant time: all keys are compared, each to its end.
        return sum(hmac.compare_digest(key, known) for known in (*self._fixed, *self._from_file)) > 0

    def _look(self) -> None:
        """Read the file again if it changed; keep the old keys if it holds none now."""
        self._next_look_s = self._clock() + _LOOK_S
        if self._file is None:
            return
        version = _version_of(self._file)
        if version and version == self._version:
            return
        try:
            keys = read_key_file(self._file)
        except NoKey as error:
            if str(error) != self._fault:
                self._fault = str(error)
                logger.error("API keys: %s; the %d read before stay valid", error, len(self._from_file))  # noqa: TRY400
            return
        self._from_file = tuple(key.encode() for key in keys)
        self._version, self._fault = version, ""
        logger.info("API keys: %d read from %s", len(keys), self._file)
        if version and version[-1] & _OTHERS_RIGHTS:
            logger.warning("API keys: other users may read %s; chmod 600 keeps them out", self._file)


def _version_of(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content or mode, the mode last; empty if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return ()
    # ctime and not mtime, which programs may set back.
    return (status.st_ctime_ns, status.st_ino, status.st_dev, status.st_size, status.st_mode)
