"""Tokens that change while we run."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from reconciler.runtime.files import FileRefused, read_bounded

_TOKEN_LIMIT = 1 << 20  # bytes
_log = logging.getLogger(__name__)


class NoToken:
    """Nothing in the Authorization header: a client certificate speaks, or nobody."""

    def header(self) -> str | None:
        return None

    def renew(self) -> bool:
        return False


class TokenFile:
    """A bearer token in a file that somebody else keeps fresh (kubelet: well before it expires).

    Read again every `every` seconds of `clock`, and at once after a refusal. While it can't be read, the last good
    one is used.
    """

    def __init__(self, path: Path, clock: Callable[[], float], *, every: float = 60.0) -> None:
        """Raise OSError or ValueError, naming the file, if there is no token in it now."""
        self._path = path
        self._clock = clock
        self._every = every
        self._lock = threading.Lock()
        self._token = read_token(path)
        self._read_at = clock()

    def header(self) -> str | None:
        with self._lock:
            if self._clock() - self._read_at >= self._every:
                self._read_again()
            return f"Bearer {self._token}"

    def renew(self) -> bool:
        with self._lock:
            before = self._token
            self._read_again()
            return self._token != before

    def _read_again(self) -> None:
        self._read_at = self._clock()
        try:
            self._token = read_token(self._path)
        except (OSError, ValueError) as error:
            _log.warning("cannot read the token again, using the last one: %s", error)


class Renewable:
    """A header that a function tells, and may be made to look for anew; calls are serialised."""

    def __init__(self, header: Callable[[], str | None], renew: Callable[[], None]) -> None:
        self._header = header
        self._renew = renew
        self._lock = threading.Lock()

    def header(self) -> str | None:
        with self._lock:
            return self._header()

    def renew(self) -> bool:
        with self._lock:
            before = self._header()
            self._renew()
            return self._header() != before


def read_token(path: Path) -> str:
    """Read a token; OSError or ValueError, naming the file, if it can't be one."""
    try:
        token = read_bounded(path, _TOKEN_LIMIT, follow=True).decode("ascii").strip()
    except FileRefused:
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a token: {error}") from error
    if not token or not token.isprintable() or " " in token:
        raise ValueError(
            f"{path}: {'is empty' if not token else 'not a token: it holds blanks or control characters'}"
        )
    return token
