"""Writes slices, and judges what the server makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from reconciler.node.slice_server import slices_path
from reconciler.runtime.kube.cache import Cached, Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled, NotFound
from state.slices.comparing import Create, Delete, Replace, Write, is_same
from state.slices.model import LiveSlice, Slice
from state.slices.wire import Json, decode_slice, encode_slice

FORGET_AFTER = 10.0
"""Seconds after which the watch is believed again, though it has not told of a write of ours."""

_log = logging.getLogger(__name__)


class Lossy(Exception):
    """The server has dropped what keeps devices apart: it can do less than was thought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ahead:
    """A write the watch has not told of yet: over which versions (None: none was there), and what is there now.

    ``heard`` is how often the watch had told of this name before.
    """

    over: frozenset[str | None]
    now: LiveSlice | None
    heard: int
    until: float


class SliceWriter:
    """Carries out writes in one version of the API. For one thread, but for ``heard``."""

    def __init__(
        self, client: KubeClient, row: str, owner: Callable[[], Json], clock: Callable[[], float]
    ) -> None:
        self._client, self._row, self._owner, self._clock = client, row, owner, clock
        self._heard: dict[str, int] = {}
        self._ahead: dict[str, _Ahead] = {}
        self._kept: dict[str, tuple[Slice, Slice]] = {}

    @property
    def state(self) -> object:
        """Equal as long as neither the watch nor a write of ours has brought anything new."""
        return sum(self._heard.values()), frozenset(self._ahead)

    def heard(self, name: str) -> None:
        """The watch has told of a slice; from any thread."""
        self._heard[name] = self._heard.get(name, 0) + 1

    def live(self, known: Mapping[Key, Cached[LiveSlice]], driver: str) -> dict[str, LiveSlice]:
        """The driver's slices: as the watch knows them, but with our own writes since."""
        slices = {key.name: cached.value for key, cached in known.items()}
        for name, ahead in list(self._ahead.items()):
            if self._is_news(ahead, name, slices.get(name)):
                del self._ahead[name]
            elif ahead.now is None:
                slices.pop(name, None)
            else:
                slices[name] = ahead.now
        return {name: each for name, each in slices.items() if each.content.pool.driver == driver}

    def _is_news(self, ahead: _Ahead, name: str, seen: LiveSlice | None) -> bool:
        version = None if seen is None else seen.resource_version
        came_and_went = seen is None and self._heard.get(name, 0) != ahead.heard
        return came_and_went or version not in ahead.over or self._clock() >= ahead.until

    def stands(self, live: LiveSlice, wanted: Slice) -> bool:
        """Whether a slice is as wanted, or as much so as this server allows."""
        return is_same(live, wanted) or self._kept.get(wanted.name) == (wanted, live.content)

    def carry_out(self, write: Write) -> bool:
        """Whether the server kept all of it.

        Raises ApiError; and Lossy when it didn't keep what it must: then nothing more is to be written.
        """
        match write:
            case Create(slice=slice):
                return self._put(slice, None)
            case Replace(slice=slice, over=over):
                return self._put(slice, over)
            case Delete(over=over):
                self._delete(over)
                return True

    def _put(self, slice: Slice, over: LiveSlice | None) -> bool:
        heard = self._heard.get(slice.name, 0)
        body = msgspec.json.encode(encode_slice(slice, self._row, owner=self._owner(), over=over))
        if over is None:
            answer = self._client.create(slices_path(self._row), body)
        else:
            answer = self._client.replace(self._path(slice.name), body)
        try:
            echo = decode_slice(answer)
        except ValueError as error:
            raise Garbled(f"no slice: {error}", about=f"write of {slice.name}") from error
        version = None if over is None else over.resource_version
        self._note(slice.name, version, echo, heard)
        self._kept[slice.name] = (slice, echo.content)
        _log.info("%s slice %s", "created" if over is None else "updated", slice.name)
        self._check(slice, echo)
        return echo.content == slice

    def _check(self, sent: Slice, echo: LiveSlice) -> None:
        lost_counters = sent.counters != echo.content.counters
        kept = {device.name: device.counter_set for device in echo.content.devices}
        lost_consumption = any(device.counter_set != kept.get(device.name) for device in sent.devices)
        if lost_counters or lost_consumption:
            # Without them all modes of a GPU could be had at once.
            self._delete(echo)
            raise Lossy(f"the server dropped counters of slice {sent.name}")
        if echo.content != sent:
            _log.warning("the server dropped fields of slice %s", sent.name)

    def _delete(self, over: LiveSlice) -> None:
        name = over.content.name
        heard = self._heard.get(name, 0)
        try:
            self._client.delete(self._path(name), uid=over.uid, resource_version=over.resource_version)
        except NotFound as error:
            if error.resource_absent:
                raise
        self._note(name, over.resource_version, None, heard)
        _log.info("deleted slice %s", name)

    def _note(self, name: str, over: str | None, now: LiveSlice | None, heard: int) -> None:
        before = self._ahead.get(name)
        stale = frozenset((over,)) if before is None else before.over | {over}
        self._ahead[name] = _Ahead(over=stale, now=now, heard=heard, until=self._clock() + FORGET_AFTER)

    def _path(self, name: str) -> str:
        return f"{slices_path(self._row)}/{quote(name, safe='')}"
