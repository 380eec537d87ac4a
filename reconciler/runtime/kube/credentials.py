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
        """None, always."""
        return None

    def renew(self, refused: str | None) -> bool:
        """False: there is nothing else to try."""
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
        self._header = f"Bearer {read_token(path)}"
        self._read_at = clock()

    def header(self) -> str | None:
        """The token of the file, as last read."""
        with self._lock:
            if self._clock() - self._read_at >= self._every:
                self._read_again()
            return self._header

    def renew(self, refused: str | None) -> bool:
        """Read the file again after a refusal; whether there is another token in it now."""
        with self._lock:
            if self._header == refused:
                self._read_again()
            return self._header != refused

    def _read_again(self) -> None:
        self._read_at = self._clock()
        try:
            self._header = f"Bearer {read_token(self._path)}"
        except (OSError, ValueError) as error:
            _log.warning("cannot read the token again, using the last one: %s", error)


class Renewable:
    """A header that a function tells, which may be made to look for it anew; calls are serialised.

    Both functions may raise OSError or ValueError: then the last good header is used.
    """

    def __init__(self, header: Callable[[], str], renew: Callable[[], None]) -> None:
        self._ask = header
        self._renew = renew
        self._lock = threading.Lock()
        self._header = checked(header())

    def header(self) -> str | None:
        """What the function tells now, or the last good header."""
        with self._lock:
            return self._look(self._ask)

    def renew(self, refused: str | None) -> bool:
        """Have it looked for anew after a refusal; whether there is another header now."""
        with self._lock:
            if self._look(self._ask) == refused:
                self._look(self._ask_anew)
            return self._header != refused

    def _ask_anew(self) -> str:
        self._renew()
        return self._ask()

    def _look(self, ask: Callable[[], str]) -> str:
        try:
            self._header = checked(ask())
        except (OSError, ValueError) as error:
            _log.warning("cannot renew the credentials, using the last ones: %s", error)
        return self._header


def checked(header: str) -> str:
    """A header without the blanks around it; ValueError (which doesn't show it) if it can't be sent."""
    stripped = header.strip()
    if not stripped or not stripped.isascii() or not stripped.isprintable():
        raise ValueError("the token is empty, or holds characters that no token can hold")
    return stripped


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
