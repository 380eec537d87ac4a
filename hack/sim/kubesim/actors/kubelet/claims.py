"""Which claims are prepared for which pods of a node: calls to drivers, and a record that survives the kubelet."""

import contextlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from kubesim.actors import reservations
from kubesim.actors.api import Api
from kubesim.actors.classic import forms
from kubesim.actors.kubelet.messages import ClaimName, Prepared, PreparedDevice
from kubesim.actors.kubelet.plugins import CallFailed, NotRegistered, Plugins
from kubesim.actors.kubelet.versions import Rules
from kubesim.actors.reservations import Waiting
from kubesim.actors.timing import Timing
from kubesim.values import Object, at, objects


class PrepareFailed(Exception):
    """A pod's claims are not prepared; the text is the kubelet's own."""


class UnprepareFailed(Exception):
    """A claim is still prepared. `registered` is whether there was a driver to ask."""

    def __init__(self, text: str, *, registered: bool) -> None:
        super().__init__(text)
        self.registered = registered


@dataclass(slots=True, kw_only=True)
class Held:
    """A claim that drivers were, or were to be, asked to prepare."""

    name: ClaimName
    handles: Mapping[str, str]
    """What each driver's controller said, "" for drivers without."""
    pods: set[str] = field(default_factory=set)
    prepared: bool = False
    devices: dict[str, tuple[PreparedDevice, ...]] = field(default_factory=dict)
    calling: threading.RLock = field(default_factory=threading.RLock)

    def named_for(self, driver: str) -> ClaimName:
        """The claim as a driver is told of it."""
        return replace(self.name, handle=self.handles[driver])

    def ids(self, driver: str) -> tuple[str, ...]:
        """The CDI ids of a driver's devices."""
        return tuple(name for device in self.devices.get(driver, ()) for name in device.cdi_ids)

    def record(self) -> Object:
        name = {"namespace": self.name.namespace, "name": self.name.name, "uid": self.name.uid}
        devices = {driver: [asdict(each) for each in found] for driver, found in self.devices.items()}
        return {**name, "handles": dict(self.handles), "pods": sorted(self.pods), "devices": devices}


class ClaimBook:
    """All claims held on a node, by namespace and name. From any thread."""

    def __init__(self, api: Api, plugins: Plugins, timing: Timing, rules: Rules, record: Path) -> None:
        self._api = api
        self._plugins = plugins
        self._timing = timing
        self._rules = rules
        self._record = record
        self._lock = threading.RLock()
        known = _recorded(record) if rules.remembers else ()
        self._held = {(each.name.namespace, each.name.name): each for each in known}

    def prepare(self, pod: Object) -> Mapping[str, Held]:
        """Have a pod's claims prepared, each driver in one call if it can; they come by the pod's names for them.

        Raises PrepareFailed.
        """
        claims = self._claims(pod)
        held = {name: self._hold(claim, pod) for name, claim in claims.items()}
        with contextlib.ExitStack() as stack:
            for each in sorted(held.values(), key=lambda each: each.name.uid):
                stack.enter_context(each.calling)
            missing = {each.name.uid: each for each in held.values() if not each.prepared}
            try:
                for batch in self._batches(list(missing.values())):
                    self._ask(_by_driver(batch))
                    for each in batch:
                        each.prepared = True
            except PrepareFailed:
                if not self._rules.holds_before_calls:
                    unprepared = [each for each in missing.values() if not each.prepared]
                    self._let_go(unprepared, pod["metadata"]["uid"])
                raise
        with self._lock:
            self._save()
        return held

    def _batches(self, claims: Sequence[Held]) -> Sequence[Sequence[Held]]:
        """What is done together: one after the other claim, or all."""
        return [[each] for each in claims] if self._rules.one_by_one else [claims]

    def _ask(self, claims: Mapping[str, Sequence[Held]]) -> None:
        """Have drivers prepare claims; all drivers must be there before any is asked. Raises PrepareFailed."""
        try:
            plugins = {driver: self._plugins.need(driver) for driver in claims}
        except NotRegistered as error:
            raise PrepareFailed(_not_registered(error.driver) if self._rules.one_by_one else f"{error}") from error
        for driver, asked in claims.items():
            names = [each.named_for(driver) for each in asked]
            try:
                answers = plugins[driver].prepare(names, self._timing.call)
            except CallFailed as error:
                failed = _failed_alone(names[0]) if self._rules.one_by_one else "NodePrepareResources:"
                raise PrepareFailed(f"{failed} {error}") from error
            for each, devices in _checked(asked, answers):
                each.devices[driver] = devices

    def _claims(self, pod: Object) -> Mapping[str, Object]:
        """A pod's claims by its names for them; the scheduler's own has none. Raises PrepareFailed."""
        try:
            claims = reservations.claims_of(pod, self._api)
        except Waiting as error:
            raise PrepareFailed(f"{error}") from error
        names = [name for name, claim in self._names(pod) if claim]
        for claim in claims:
            meta = claim["metadata"]
            if not reservations.allocated(claim) or not reservations.reserved_for(claim, pod):
                what = f"pod {pod['metadata']['name']} is not allowed to use resource claim {meta['name']}"
                raise PrepareFailed(what)
        found = dict(zip([*names, ""], claims, strict=False))
        return _used(pod, found) if self._rules.prepares_only_what_is_used else found

    def _names(self, pod: Object) -> Iterator[tuple[str, str | None]]:
        return reservations.claim_names(pod, generated=self._api.generated_names)

    def _hold(self, claim: Object, pod: Object) -> Held:
        """Note, also on disk, that a pod holds a claim. Raises PrepareFailed."""
        meta, key = claim["metadata"], (claim["metadata"]["namespace"], claim["metadata"]["name"])
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.name.uid != meta["uid"]:
                what = f"old ResourceClaim with same name {key[1]} and different UID {held.name.uid}"
                raise PrepareFailed(f"{what} still exists (previous pod force-deleted?!)")
            if held is None:
                name = ClaimName(namespace=key[0], name=key[1], uid=meta["uid"])
                held = self._held[key] = Held(name=name, handles=forms.handles(claim))
            held.pods.add(pod["metadata"]["uid"])
            self._save()
            return held

    def unprepare(self, pod_uid: str) -> None:
        """Give back what only this pod held. Raises UnprepareFailed; claims that were given back stay so."""
        with self._lock:
            mine = [each for each in self._held.values() if pod_uid in each.pods]
            last = [each for each in mine if each.pods == {pod_uid}]
            self._let_go([each for each in mine if each.pods != {pod_uid}], pod_uid)
        for batch in self._batches(last):
            for driver, asked in _by_driver(batch).items():
                self._unprepare(driver, asked)
            self._let_go(batch, pod_uid)

    def _let_go(self, claims: Sequence[Held], pod_uid: str) -> None:
        """Note that a pod does not hold these any more."""
        with self._lock:
            for each in claims:
                each.pods.discard(pod_uid)
                if not each.pods:
                    self._held.pop((each.name.namespace, each.name.name), None)
            if claims:
                self._save()

    def _unprepare(self, driver: str, asked: Sequence[Held]) -> None:
        try:
            claims = {each.named_for(driver): each.ids(driver) for each in asked}
            answers = self._plugins.need(driver).unprepare(claims, self._timing.call)
        except NotRegistered as error:
            raise UnprepareFailed(f"{error}", registered=False) from error
        except CallFailed as error:
            raise UnprepareFailed(f"NodeUnprepareResources: {error}", registered=True) from error
        for each in asked:
            each.prepared = False
            if each.name.uid not in answers:
                raise UnprepareFailed("NodeUnprepareResources skipped 1 ResourceClaims", registered=True)
            if answers[each.name.uid]:
                why = f"NodeUnprepareResources failed for claim {each.name.name}: {answers[each.name.uid]}"
                raise UnprepareFailed(why, registered=True)

    def holders(self) -> frozenset[str]:
        """UIDs of pods that hold claims."""
        with self._lock:
            return frozenset(uid for each in self._held.values() for uid in each.pods)

    def of(self, pod: Object) -> Mapping[str, Held]:
        """What a pod holds, by its names for its claims, the scheduler's claim as ""."""
        with self._lock:
            mine = {each.name.name: each for each in self._held.values() if pod["metadata"]["uid"] in each.pods}
        named = {name: mine[claim] for name, claim in self._names(pod) if claim in mine}
        extended = reservations.extended_claim_name(pod)
        return {**named, "": mine[extended]} if extended in mine else named

    def _save(self) -> None:
        if not self._rules.remembers:
            return
        text = json.dumps({"claims": [each.record() for each in self._held.values()]})
        fresh = self._record.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self._record)


def _not_registered(driver: str) -> str:
    found = f"plugin name {driver} not found in the list of registered DRA plugins"
    return f"failed to get DRA Plugin client for plugin name {driver}, err={found}"


def _failed_alone(claim: ClaimName) -> str:
    which = f"claim UID: {claim.uid}, claim name: {claim.name}, resource handle: {claim.handle}"
    return f"NodePrepareResource failed, {which}, err:"


def _used(pod: Object, claims: Mapping[str, Object]) -> Mapping[str, Object]:
    """Those that a container uses, the first container's first."""
    names = [
        use["name"]
        for each in objects(pod["spec"]["containers"])
        for use in objects(at(each, "resources", "claims"))
    ]
    return {name: claims[name] for name in names if name in claims}


def _by_driver(claims: Iterable[Held]) -> Mapping[str, Sequence[Held]]:
    found: dict[str, list[Held]] = defaultdict(list)
    for each in claims:
        for driver in each.handles:
            found[driver].append(each)
    return found


def _checked(
    asked: Sequence[Held], answers: Mapping[str, Prepared]
) -> Iterator[tuple[Held, tuple[PreparedDevice, ...]]]:
    """A driver's answer, claim by claim. Raises PrepareFailed."""
    known = {each.name.uid: each for each in asked}
    for uid, answer in answers.items():
        if uid not in known:
            raise PrepareFailed(f"NodePrepareResources returned result for unknown claim UID {uid}")
        if answer.error:
            name = known[uid].name.name
            raise PrepareFailed(f"NodePrepareResources failed for ResourceClaim {name}: {answer.error}")
        yield known[uid], answer.devices
    skipped = len(set(known) - set(answers))
    if skipped:
        raise PrepareFailed(f"NodePrepareResources skipped {skipped} ResourceClaims")


def _recorded(record: Path) -> Iterator[Held]:
    """What an earlier kubelet held. It did not note what was prepared, only what drivers answered with."""
    try:
        claims: Iterable[Object] = json.loads(record.read_text())["claims"]
    except FileNotFoundError:
        return
    for each in claims:
        name = ClaimName(namespace=each["namespace"], name=each["name"], uid=each["uid"])
        devices = {driver: tuple(map(_device, found)) for driver, found in each["devices"].items()}
        yield Held(name=name, handles=each["handles"], pods=set(each["pods"]), devices=devices)


def _device(raw: Object) -> PreparedDevice:
    lists = {key: tuple(raw[key]) for key in ("requests", "cdi_ids")}
    return PreparedDevice(**{**raw, **lists})
