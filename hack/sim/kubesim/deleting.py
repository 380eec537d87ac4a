"""Deletion: preconditions, finalizers, owners and dependents, namespaces and custom resource definitions.

What takes a real cluster a moment (garbage collection, emptying a namespace) is done before the answer goes out.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

import msgspec

from kubesim.clock import timestamp
from kubesim.crds import CLEANUP, DEFINITIONS, install, terminating, uninstall
from kubesim.messages import Request
from kubesim.refusals import bad_request, conflict
from kubesim.resources import Resource, Target
from kubesim.state import NAMESPACES, State
from kubesim.store import ObjectKey, TableKey
from kubesim.values import Object, at, copy, decode, objects

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
PODS = ("", "pods")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """metav1.DeleteOptions, from the body or the query; `grace` in seconds."""

    uid: str = ""
    resource_version: str = ""
    propagation: str = ""
    grace: int | None = None
    dry_run: bool = False

    @classmethod
    def of(cls, request: Request) -> "DeleteOptions":
        """Raises Refusal (400) if the body can't be read."""
        try:
            body = decode(request.body) if request.body.strip() else {}
        except msgspec.DecodeError as error:
            raise bad_request(f"unable to decode DeleteOptions: {error}") from error
        if not isinstance(body, dict):
            raise bad_request("unable to decode DeleteOptions: not an object")
        conditions = body.get("preconditions") or {}
        grace = body.get("gracePeriodSeconds", request.option("gracePeriodSeconds") or None)
        return cls(
            uid=conditions.get("uid") or "",
            resource_version=conditions.get("resourceVersion") or "",
            propagation=body.get("propagationPolicy") or request.option("propagationPolicy"),
            grace=None if grace is None else int(grace),
            dry_run=bool(body.get("dryRun")) or request.option("dryRun") == "All",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """`last` is the object's last state, or its present one if it is still there, waiting."""

    last: Object
    waits: bool


class Deleter:
    """Deletes objects and sees to what follows from any write; the caller holds the lock."""

    def __init__(self, state: State) -> None:
        self._state = state

    def delete(self, target: Target, options: DeleteOptions) -> Deleted:
        """Raises Refusal (404, 409)."""
        live = self._state.need(target)
        _check(target, live, options)
        if options.dry_run:
            return Deleted(last=live, waits=False)
        if target.resource.key == NAMESPACES:
            return self._delete_namespace(target, live)
        if target.resource.key == DEFINITIONS:
            return self._delete_definition(target, live)
        grace = _grace(target, live, options)
        if grace > 0:
            return Deleted(last=self._mark(target, live, grace), waits=True)
        finalizers = list(live["metadata"].get("finalizers") or ())
        for policy, finalizer in (("Foreground", FOREGROUND), ("Orphan", ORPHAN)):
            if options.propagation == policy and finalizer not in finalizers:
                finalizers.append(finalizer)
        if not finalizers:
            return Deleted(last=self.remove(target, live), waits=False)
        if finalizers != live["metadata"].get("finalizers"):
            live = {**live, "metadata": {**live["metadata"], "finalizers": finalizers}}
        last = self._mark(target, live, 0)
        if options.propagation == "Orphan":
            self._orphan(live)
            return self._without_finalizer(target, ORPHAN) or Deleted(last=last, waits=True)
        if FOREGROUND in finalizers:
            self._delete_dependents(live["metadata"]["uid"], foreground=True)
            self._finish_foreground(live["metadata"]["uid"])
            waits = self._state.find(target) is not None
            return Deleted(last=last, waits=waits)
        return Deleted(last=last, waits=True)

    def after_write(self, target: Target, stored: Object) -> None:
        """What follows from a write: definitions come into force, namespaces that only waited go."""
        if target.resource.key == NAMESPACES and "deletionTimestamp" in stored["metadata"]:
            self._finish_namespace(target.name)
        elif target.resource.key == DEFINITIONS and target.subresource != "status":
            install(self._state, stored)

    def remove(self, target: Target, last: Object) -> Object:
        """Remove an object at once, and its dependents after it."""
        removed = self._state.store.remove(target.resource.table, target.key, last)
        self._delete_dependents(removed["metadata"]["uid"], foreground=False)
        for owner in removed["metadata"].get("ownerReferences") or ():
            self._finish_foreground(owner["uid"])
        namespace = self._state.store.get(NAMESPACES, ("", target.namespace))
        if namespace is not None and "deletionTimestamp" in namespace["metadata"]:
            self._finish_namespace(target.namespace)
        return removed

    def _mark(self, target: Target, live: Object, grace: int) -> Object:
        """Set the time of deletion, unless that happened before."""
        meta = live["metadata"]
        if "deletionTimestamp" in meta:
            known = self._state.need(target)
            return known if known == live else self._state.store.put(target.resource.table, target.key, live)
        moment = timestamp(self._state.clock.now() + timedelta(seconds=grace))
        meta = {**meta, "deletionTimestamp": moment, "deletionGracePeriodSeconds": grace}
        if "generation" in meta:
            meta["generation"] += 1
        return self._state.store.put(target.resource.table, target.key, {**live, "metadata": meta})

    def _target(self, table: TableKey, key: ObjectKey) -> Target | None:
        resource = self._state.resources.get(table)
        if resource is None:
            return None
        return Target(resource=resource, version=resource.versions[0], namespace=key[0], name=key[1])

    def _delete_dependents(self, uid: str, *, foreground: bool) -> None:
        """Delete what only this owner held; others just lose the reference (in the background only)."""
        for table, key in self._state.store.owned_by(uid):
            target = self._target(table, key)
            dependent = self._state.store.get(table, key)
            if target is None or dependent is None:
                continue
            others = [each for each in dependent["metadata"]["ownerReferences"] if each["uid"] != uid]
            if any(self._state.store.place_of(each["uid"]) for each in others):
                if not foreground:
                    self._set_owners(target, dependent, others)
            elif "deletionTimestamp" not in dependent["metadata"]:
                self.delete(target, DeleteOptions())

    def _orphan(self, owner: Object) -> None:
        uid = owner["metadata"]["uid"]
        for table, key in self._state.store.owned_by(uid):
            target, dependent = self._target(table, key), self._state.store.get(table, key)
            if target is not None and dependent is not None:
                others = [each for each in dependent["metadata"]["ownerReferences"] if each["uid"] != uid]
                self._set_owners(target, dependent, others)

    def _set_owners(self, target: Target, dependent: Object, owners: list[Object]) -> None:
        meta = {key: value for key, value in dependent["metadata"].items() if key != "ownerReferences"}
        if owners:
            meta["ownerReferences"] = owners
        self._state.store.put(target.resource.table, target.key, {**dependent, "metadata": meta})

    def _finish_foreground(self, uid: str) -> None:
        """Let an owner go whose deletion waited for dependents that block it."""
        place = self._state.store.place_of(uid)
        target = self._target(*place) if place else None
        owner = self._state.find(target) if target else None
        if target is None or owner is None or FOREGROUND not in (owner["metadata"].get("finalizers") or ()):
            return
        if not any(self._blocks(table, key, uid) for table, key in self._state.store.owned_by(uid)):
            self._without_finalizer(target, FOREGROUND)

    def _blocks(self, table: TableKey, key: ObjectKey, uid: str) -> bool:
        dependent = self._state.store.get(table, key) or {"metadata": {}}
        owners = objects(dependent["metadata"].get("ownerReferences"))
        return any(each["uid"] == uid and each.get("blockOwnerDeletion") for each in owners)

    def _without_finalizer(self, target: Target, finalizer: str) -> Deleted | None:
        live = copy(self._state.need(target))
        rest = [each for each in live["metadata"]["finalizers"] if each != finalizer]
        live["metadata"]["finalizers"] = rest
        if rest:
            self._state.store.put(target.resource.table, target.key, live)
            return None
        del live["metadata"]["finalizers"]
        return Deleted(last=self.remove(target, live), waits=False)

    def _delete_namespace(self, target: Target, live: Object) -> Deleted:
        if "deletionTimestamp" in live["metadata"]:
            return Deleted(last=live, waits=True)
        meta = {**live["metadata"], "deletionTimestamp": self._state.now()}
        gone = {**live, "metadata": meta, "status": {**live.get("status", {}), "phase": "Terminating"}}
        last = self._state.store.put(NAMESPACES, target.key, gone)
        for table, key in self._content(target.name):
            inside = self._target(table, key)
            if inside is not None and self._state.find(inside) is not None:
                self.delete(inside, DeleteOptions(grace=0))
        self._finish_namespace(target.name)
        return Deleted(last=last, waits=True)

    def _content(self, namespace: str) -> list[tuple[TableKey, ObjectKey]]:
        return [
            (table, key) for table, kept in self._state.store.tables() for key in list(kept) if key[0] == namespace
        ]

    def _finish_namespace(self, name: str) -> None:
        """Remove a namespace that is being deleted once nothing is left in it."""
        namespace = self._state.store.get(NAMESPACES, ("", name))
        if namespace is None or namespace["metadata"].get("finalizers") or self._content(name):
            return
        last = {
            **namespace,
            "spec": {key: value for key, value in namespace["spec"].items() if key != "finalizers"},
        }
        self._state.store.remove(NAMESPACES, ("", name), last)

    def _delete_definition(self, target: Target, live: Object) -> Deleted:
        """Remove the objects of the kind, then the kind; objects with finalizers are not waited for."""
        meta = {**live["metadata"], "deletionTimestamp": self._state.now(), "finalizers": [CLEANUP]}
        marked = {**terminating(live, self._state.now()), "metadata": meta}
        last = self._state.store.put(DEFINITIONS, target.key, marked)
        resource = self._state.resources.get((live["spec"]["group"], live["spec"]["names"]["plural"]))
        if resource is not None:
            self._empty(resource)
            uninstall(self._state, resource)
        self.remove(target, {**last, "metadata": {k: v for k, v in meta.items() if k != "finalizers"}})
        return Deleted(last=last, waits=True)

    def _empty(self, resource: Resource) -> None:
        for key, each in self._state.store.all(resource.table):
            target = Target(resource=resource, version=resource.versions[0], namespace=key[0], name=key[1])
            if self._state.find(target) is not None:
                self.remove(target, each)


def _check(target: Target, live: Object, options: DeleteOptions) -> None:
    resource, meta = target.resource, live["metadata"]
    if options.uid and options.uid != meta["uid"]:
        why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta['uid']})"
        text = f"{why}. The object might have been deleted and then recreated"
        raise conflict(resource.kind, resource.group, target.name, text)
    if options.resource_version and options.resource_version != meta["resourceVersion"]:
        asked, recorded = options.resource_version, meta["resourceVersion"]
        why = f"the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record "
        text = f"{why}({recorded}). The object might have been modified"
        raise conflict(resource.kind, resource.group, target.name, text)


def _grace(target: Target, live: Object, options: DeleteOptions) -> int:
    """The seconds that a pod is given: none unless it is on a node and has not ended; other kinds have none."""
    ended = at(live, "status", "phase") in ("Failed", "Succeeded")
    if target.resource.key != PODS or ended or not live["spec"].get("nodeName"):
        return 0
    if options.grace is not None:
        return options.grace
    seconds: int = live["spec"].get("terminationGracePeriodSeconds", 30)
    return seconds


def named(target: Target, key: ObjectKey) -> Target:
    """The target of an object in a collection."""
    return replace(target, namespace=key[0], name=key[1])
