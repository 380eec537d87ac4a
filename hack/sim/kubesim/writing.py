"""Creates, updates, patches and applies: from what was sent to a stored object."""

from dataclasses import dataclass, replace

from kubesim import managed, patches
from kubesim.births import new_metadata
from kubesim.bodies import Options, checked_type, configuration_of, patch_of
from kubesim.checking import check, check_versions
from kubesim.decoding import decoded
from kubesim.deleting import Deleter
from kubesim.managed import Manager
from kubesim.messages import Request
from kubesim.refusals import (
    Cause,
    Refusal,
    already_exists,
    bad_request,
    invalid,
    not_found,
    required,
)
from kubesim.resources import Target
from kubesim.state import NAMESPACES, State
from kubesim.values import Object, Value, copy, quoted

PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a write led to: the stored form of the object and warnings for the client."""

    status: int
    stored: Object
    warnings: tuple[str, ...] = ()


class Writer:
    """Writes objects; the caller holds the lock. The deleter sees to what follows from a write."""

    def __init__(self, state: State, deleter: Deleter) -> None:
        self._state = state
        self._deleter = deleter

    def create(
        self, target: Target, body: Object, options: Options, managers: list[Manager] | None = None
    ) -> Outcome:
        """Raises Refusal."""
        state, resource = self._state, target.resource
        sent, warnings = decoded(target, body, options.validation)
        fresh = state.internal(sent, target)
        meta = new_metadata(state, fresh["metadata"], target)
        fresh = {
            key: value for key, value in {**fresh, "metadata": meta}.items() if key not in ("kind", "apiVersion")
        }
        target = replace(target, namespace=meta.get("namespace", ""), name=meta["name"])
        if resource.has_status and resource.key != ("", "nodes"):
            fresh.pop("status", None)
        behaviour = state.behaviour(resource)
        behaviour.create(fresh)
        behaviour.default(fresh)
        behaviour.stamp(fresh, state.now())
        if resource.custom or resource.counts_generations:
            meta["generation"] = 1
        check(self._state, target, fresh, None)
        behaviour.tidy(fresh)
        if state.find(target) is not None:
            raise already_exists(resource.plural, resource.group, meta["name"])
        owners = managers if managers is not None else self._update_managers(target, None, fresh, options)
        meta["managedFields"] = managed.write(owners)
        if not options.dry_run:
            fresh = state.store.put(resource.table, target.key, fresh)
            self._deleter.after_write(target, fresh)
        return Outcome(status=201, stored=fresh, warnings=(*warnings, *behaviour.warnings(fresh)))

    def update(self, target: Target, body: Object, options: Options) -> Outcome:
        """A PUT. Raises Refusal."""
        resource = target.resource
        sent, warnings = decoded(target, body, options.validation)
        name = sent["metadata"].get("name", "")
        if not name:
            raise (
                bad_request("the object provided is unrecognized (must have a name)")
                if resource.custom
                else invalid(resource.kind, resource.group, "", [required("metadata.name", "name is required")])
            )
        if name != target.name:
            raise bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            )
        live = self._state.find(target)
        if live is None:
            if resource.created_by_update and not target.subresource:
                return self.create(target, body, options)
            raise not_found(resource.plural, resource.group, target.name)
        if resource.custom or resource.needs_resource_version:
            self._need_version(target, sent)
        return self._replaced(target, live, sent, options, warnings)

    def patch(self, target: Target, request: Request, options: Options) -> Outcome:
        """A PATCH of any of the four kinds. Raises Refusal."""
        kind = request.content_type
        allowed = [
            each for each in PATCHES if not (target.resource.custom and each.startswith("application/strat"))
        ]
        if kind not in allowed:
            message = "the body of the request was in an unknown format - accepted media types include: "
            raise Refusal(415, message + ", ".join(allowed))
        if kind == "application/apply-patch+yaml":
            return self._apply(target, request, options)
        live = self._state.need(target)
        shown = self._state.presented(live, target.resource, target.version)
        patch = patch_of(request)
        if kind == "application/json-patch+json":
            patched = patches.json_patch(shown, patch)
        elif not isinstance(patch, dict):
            raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
        elif kind == "application/merge-patch+json":
            patched = patches.merge(shown, patch)
        else:
            patched = patches.strategic(shown, patch, target.schema)
        sent, warnings = decoded(target, checked_type(patched, target), options.validation)
        for part in ("name", "namespace"):
            if sent["metadata"].get(part) != live["metadata"].get(part):
                raise self._immutable_metadata(target, part, sent["metadata"].get(part))
        return self._replaced(target, live, sent, options, warnings)

    def _immutable_metadata(self, target: Target, part: str, value: Value) -> Refusal:
        resource = target.resource
        cause = Cause(
            "FieldValueInvalid", f"Invalid value: {quoted(value)}: field is immutable", f"metadata.{part}"
        )
        return invalid(resource.kind, resource.group, target.name, [cause])

    def _apply(self, target: Target, request: Request, options: Options) -> Outcome:
        resource = target.resource
        if not request.option("fieldManager"):
            raise invalid(
                "PatchOptions", "meta.k8s.io", "", [required("fieldManager", "is required for apply patch")]
            )
        config = configuration_of(request, target)
        if config.get("metadata", {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        name = config.get("metadata", {}).get("name", target.name)
        if name != target.name:
            raise bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            )
        sent, warnings = decoded(target, config, options.validation, defaults=False)
        sent = _own_part(sent, target)
        applier = self._manager(target, options, "Apply")
        schema = target.ownership_schema
        live = self._state.find(target)
        if live is None:
            if target.subresource:
                raise not_found(resource.plural, resource.group, target.name)
            _, owners = managed.apply({}, sent, schema, [], applier, force=True)
            body = {**sent, "metadata": {**sent["metadata"], "name": target.name}}
            return self.create(target, body, options, owners)
        check_versions(target, live, sent)
        shown = self._state.presented(live, resource, target.version)
        merged, owners = managed.apply(
            shown, sent, schema, managed.read(live["metadata"]), applier, force=options.force
        )
        merged = managed.with_last_applied(merged, config, applier)
        merged, _ = decoded(target, merged, options.validation)
        return self._replaced(target, live, merged, options, warnings, owners)

    def _need_version(self, target: Target, sent: Object) -> None:
        if sent["metadata"].get("resourceVersion"):
            return
        cause = Cause(
            "FieldValueInvalid", "Invalid value: 0: must be specified for an update", "metadata.resourceVersion"
        )
        raise invalid(target.resource.kind, target.resource.group, target.name, [cause])

    def _replaced(
        self,
        target: Target,
        live: Object,
        sent: Object,
        options: Options,
        warnings: list[str],
        owners: list[Manager] | None = None,
    ) -> Outcome:
        """Store the new state of an object, of which only the part that is written counts."""
        state, resource = self._state, target.resource
        check_versions(target, live, sent)
        fresh = copy(state.internal(sent, target))
        fresh = self._prepared(target, fresh, live)
        behaviour = state.behaviour(resource)
        behaviour.default(fresh)
        behaviour.stamp(fresh, state.now())
        behaviour.update(fresh, live)
        self._count_generation(target, fresh, live)
        check(self._state, target, fresh, live)
        behaviour.tidy(fresh)
        if owners is None:
            owners = self._update_managers(target, live, fresh, options, sent["metadata"])
        fresh["metadata"]["managedFields"] = managed.write(owners)
        fresh["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        said = (*warnings, *behaviour.warnings(fresh))
        if fresh == live or options.dry_run:
            return Outcome(status=200, stored=fresh, warnings=said)
        if _lets_go(target, live, fresh):
            self._deleter.remove(target, fresh)
        else:
            fresh = state.store.put(resource.table, target.key, fresh)
            self._deleter.after_write(target, fresh)
        return Outcome(status=200, stored=fresh, warnings=said)

    def _prepared(self, target: Target, fresh: Object, live: Object) -> Object:
        """The new state with everything in place that this write may not touch."""
        old_meta, meta = live["metadata"], dict(fresh["metadata"])
        for key in managed.UNTRACKED_METADATA:
            meta.pop(key, None)
            if key in old_meta:
                meta[key] = old_meta[key]
        if target.subresource == "status":
            kept = {key: value for key, value in live.items() if key != "status"}
            result = {**copy(kept), **({"status": fresh["status"]} if "status" in fresh else {})}
            if target.resource.key in (("", "nodes"), ("", "pods")):
                result["metadata"] = meta
        else:
            result = {key: value for key, value in fresh.items() if key not in ("kind", "apiVersion")}
            result["metadata"] = meta
            if target.resource.has_status:
                result.pop("status", None)
                if "status" in live:
                    result["status"] = copy(live["status"])
        return {key: value for key, value in result.items() if key not in ("kind", "apiVersion")}

    def _count_generation(self, target: Target, fresh: Object, live: Object) -> None:
        if "generation" not in live["metadata"] or target.subresource == "status":
            return
        outside = (
            {"metadata", "status"} if target.resource.has_status or not target.resource.custom else {"metadata"}
        )
        parts = (fresh.keys() | live.keys()) - outside
        if any(fresh.get(part) != live.get(part) for part in parts):
            fresh["metadata"]["generation"] = live["metadata"]["generation"] + 1

    def _manager(self, target: Target, options: Options, operation: str) -> Manager:
        return Manager(
            name=options.manager,
            operation=operation,
            api_version=target.api_version,
            subresource=target.subresource,
            time=self._state.now(),
        )

    def _update_managers(
        self, target: Target, live: Object | None, fresh: Object, options: Options, sent: Object | None = None
    ) -> list[Manager]:
        known: list[Manager] = managed.read(live["metadata"]) if live else []
        if sent is not None and sent.get("managedFields"):
            known = managed.read(sent)  # a client may rewrite them; [{}] forgets them all
        writer = self._manager(target, options, "Update")
        return managed.after_update(live, fresh, target.ownership_schema, known, writer)


def _lets_go(target: Target, live: Object, fresh: Object) -> bool:
    """Whether this write takes the last finalizer from an object that only waited for that."""
    meta = fresh["metadata"]
    waited = "deletionTimestamp" in meta and not meta.get("deletionGracePeriodSeconds")
    freed = bool(live["metadata"].get("finalizers")) and not meta.get("finalizers")
    return waited and freed and target.resource.key != NAMESPACES


def _own_part(sent: Object, target: Target) -> Object:
    """What an applied configuration may own: status through its subresource only, and nothing else there."""
    if target.subresource == "status":
        identity = ("name", "namespace", "resourceVersion", "uid")
        metadata = {key: value for key, value in sent["metadata"].items() if key in identity}
        return {"metadata": metadata, **{key: value for key, value in sent.items() if key == "status"}}
    if target.resource.has_status:
        return {key: value for key, value in sent.items() if key != "status"}
    return sent
