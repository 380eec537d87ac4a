"""What the server has just answered about an object, until the watch has caught up with it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class _Versioned(Protocol):
    @property
    def resource_version(self) -> str: ...


_Key = TypeVar("_Key", bound=Hashable)
_Object = TypeVar("_Object", bound=_Versioned)


def version_of(found: _Versioned | None) -> str | None:
    """Its resource version; None: there is none."""
    return None if found is None else found.resource_version


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer(Generic[_Object]):
    """``older`` are versions, None among them, that are no newer for certain."""

    found: _Object
    older: frozenset[str | None]


class Answers(Generic[_Key, _Object]):
    """Lies over a cache. Versions can't be compared, so an answer counts only while the cache shows one of those
    that were known before the server was asked. Its users see to it that one thread at a time is here.
    """

    def __init__(self) -> None:
        self._answers: dict[_Key, _Answer[_Object]] = {}

    def newest(self, key: _Key, cached: _Object | None) -> _Object | None:
        """The newest state known of an object of which the cache has ``cached``."""
        answer = self._answers.get(key)
        if answer is None:
            return cached
        if version_of(cached) in answer.older:
            return answer.found
        del self._answers[key]
        return cached

    def take(self, key: _Key, found: _Object, older: frozenset[str | None]) -> None:
        """The server answered ``found``, asked when the versions ``older`` were known."""
        before = self._answers.get(key)
        self._answers[key] = _Answer(found=found, older=older if before is None else older | before.older)

    def drop(self, key: _Key) -> None:
        """The object is gone."""
        self._answers.pop(key, None)
