"""Creates, updates, patches and applies: from a request's body to a stored object."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import yaml

from kubesim import custom_validation, decoding, managed, metadata, patches, rules
from kubesim.decoding import Findings
from kubesim.documents import object_meta
from kubesim.kinds.behaviour import View
from kubesim.managed import Manager
from kubesim.messages import Request
from kubesim.protobuf import MEDIA_TYPE, MESSAGES, decode_object
from kubesim.refusals import (
    UNCHECKED,
    Cause,
    Refusal,
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
    required,
)
from kubesim.resources import Target
from kubesim.state import NAMESPACES, State
from kubesim.values import Object, Value, copy, decode, quoted

LARGEST_BODY = 3 * 1024 * 1024
JSON_TYPES = ("application/json", "application/yaml")
ACCEPTED = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a write is to be done, from its query and headers."""

    manager: str
    validation: str
    dry_run: bool
    force: bool

    @classmethod
    def of(cls, request: Request) -> "Options":
        """Raises Refusal (422) for values there are not."""
        validation = request.option("fieldValidation") or decoding.WARN
        if validation not in (decoding.STRICT, decoding.WARN, decoding.IGNORE):
            raise bad_request(f"fieldValidation parameter must be one of Ignore, Warn, Strict, not {validation!r}")
        agent = request.headers.get("user-agent", "").partition("/")[0]
        return cls(
            manager=request.option("fieldManager") or agent or "unknown",
            validation=validation,
            dry_run=request.option("dryRun") == "All",
            force=request.flag("force"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a write led to: the stored form of the object and warnings for the client."""

    status: int
    stored: Object
    warnings: tuple[str, ...] = ()


def body_of(request: Request, target: Target) -> Object:
    """The object in a request. Raises Refusal: 400, 413 or 415."""
    if len(request.body) > LARGEST_BODY:
        raise Refusal(413, f"Request entity too large: limit is {LARGEST_BODY}")
    if request.content_type == MEDIA_TYPE and target.resource.kind in MESSAGES:
        return _checked_type(decode_object(request.body, MESSAGES[target.resource.kind]), target)
    if request.content_type and request.content_type not in JSON_TYPES:
        message = f"the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
        raise Refusal(415, message)
    try:
        body = decode(request.body) if request.content_type != "application/yaml" else yaml.safe_load(request.body)
    except (msgspec.DecodeError, yaml.YAMLError) as error:
        text = request.body.decode(errors="replace")
        why = "unexpected end of JSON input" if "truncated" in str(error) else str(error)
        raise bad_request(
            f"the object provided is unrecognized (must be of type {target.resource.kind}): "
            f"couldn't get version/kind; json parse error: {why} ({text[:200]})"
        ) from error
    return _checked_type(body, target)


def _checked_type(body: Value, target: Target) -> Object:
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {target.resource.kind})")
    kind, api_version = body.get("kind"), body.get("apiVersion")
    if kind not in (None, "", target.resource.kind) or api_version not in (None, "", target.api_version):
        group, _, version = (api_version or "").rpartition("/")
        raise bad_request(
            f"{kind} in version {quoted(version)} cannot be handled as a {target.resource.kind}: converting "
            f"({group}.{kind}) to ({target.resource.group}.{target.resource.kind}): unknown conversion"
            if kind != target.resource.kind
            else f"the API version in the data ({api_version}) does not match the expected API version "
            f"({target.api_version})"
        )
    return body


class Writer:
    """Writes objects; the caller holds the lock. `written` is told of every object that changed."""

    def __init__(self, state: State, finish: Callable[[Target, Object], None]) -> None:
        self._state = state
        self._finish = finish

    def create(
        self, target: Target, body: Object, options: Options, managers: list[Manager] | None = None
    ) -> Outcome:
        """Raises Refusal."""
        state, resource = self._state, target.resource
        sent, warnings = self._decoded(target, body, options)
        fresh = state.internal(sent, target)
        meta = self._new_metadata(fresh["metadata"], target)
        fresh = {
            key: value for key, value in {**fresh, "metadata": meta}.items() if key not in ("kind", "apiVersion")
        }
        target = replace(target, namespace=meta.get("namespace", ""), name=meta["name"])
        if resource.has_status and resource.key != ("", "nodes"):
            fresh.pop("status", None)
        behaviour = state.behaviour(resource)
        behaviour.create(fresh)
        behaviour.default(fresh)
        if resource.custom or resource.counts_generations:
            meta["generation"] = 1
        self._check(target, fresh, None)
        behaviour.tidy(fresh)
        if state.find(target) is not None:
            raise already_exists(resource.plural, resource.group, meta["name"])
        owners = managers if managers is not None else self._update_managers(target, None, fresh, options)
        meta["managedFields"] = managed.write(owners)
        if not options.dry_run:
            fresh = state.store.put(resource.table, target.key, fresh)
            self._finish(target, fresh)
        return Outcome(status=201, stored=fresh, warnings=(*warnings, *behaviour.warnings(fresh)))

    def update(self, target: Target, body: Object, options: Options) -> Outcome:
        """A PUT. Raises Refusal."""
        resource = target.resource
        sent, warnings = self._decoded(target, body, options)
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
        patch = _patch_body(request)
        if kind == "application/json-patch+json":
            patched = patches.json_patch(shown, patch)
        elif not isinstance(patch, dict):
            raise bad_request("json: cannot unmarshal array into Go value of type map[string]interface {}")
        elif kind == "application/merge-patch+json":
            patched = patches.merge(shown, patch)
        else:
            patched = patches.strategic(shown, patch, target.schema)
        sent, warnings = self._decoded(target, _checked_type(patched, target), options)
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
        config = _checked_type(_yaml(request.body), target)
        if config.get("metadata", {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        name = config.get("metadata", {}).get("name", target.name)
        if name != target.name:
            raise bad_request(
                f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            )
        sent, warnings = self._decoded(target, _without_nulls(config), options, defaults=False)
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
        _check_versions(target, live, sent)
        shown = self._state.presented(live, resource, target.version)
        merged, owners = managed.apply(
            shown, sent, schema, managed.read(live["metadata"]), applier, force=options.force
        )
        merged = managed.with_last_applied(merged, config, applier)
        merged, _ = self._decoded(target, merged, options)
        return self._replaced(target, live, merged, options, warnings, owners)

    def _decoded(
        self, target: Target, body: Object, options: Options, *, defaults: bool = True
    ) -> tuple[Object, list[str]]:
        """The body without what nobody knows, with a custom resource's defaults, and warnings."""
        findings = Findings()
        if not target.resource.custom:
            decoded = decoding.decode_builtin(body, target, findings)
        else:
            decoded = _decode_custom(body, target, findings, defaults=defaults)
        if not isinstance(decoded.get("metadata"), dict):
            decoded["metadata"] = {}
        return decoded, decoding.report(findings, target, options.validation)

    def _new_metadata(self, sent: Object, target: Target) -> Object:
        resource, state = target.resource, self._state
        meta = {key: value for key, value in sent.items() if key not in managed.UNTRACKED_METADATA}
        if sent.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if resource.namespaced:
            namespace = sent.get("namespace") or target.namespace
            if namespace != target.namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            self._check_namespace(target, sent)
            meta["namespace"] = namespace
        meta["name"] = sent.get("name") or ""
        if not meta["name"] and meta.get("generateName"):
            meta["name"] = meta["generateName"][:58] + state.new_suffix()
        if not meta["name"]:
            causes = [required("metadata.name", "name or generateName is required")]
            raise invalid(resource.kind, resource.group, "", causes)
        return meta | {"uid": state.new_uid(), "creationTimestamp": state.now()}

    def _check_namespace(self, target: Target, sent: Object) -> None:
        namespace = self._state.store.get(NAMESPACES, ("", target.namespace))
        if namespace is None:
            raise not_found("namespaces", "", target.namespace)
        if "deletionTimestamp" in namespace["metadata"]:
            name = sent.get("name", "")
            raise Refusal(
                403,
                f'{target.resource.qualified} "{name}" is forbidden: unable to create new content in namespace '
                f"{target.namespace} because it is being terminated",
                details={
                    "name": name,
                    "group": target.resource.group,
                    "kind": target.resource.plural,
                    "causes": [
                        {
                            "reason": "NamespaceTerminating",
                            "message": f"namespace {target.namespace} is being terminated",
                            "field": "metadata.namespace",
                        }
                    ],
                },
            )

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
        _check_versions(target, live, sent)
        fresh = copy(state.internal(sent, target))
        fresh = self._prepared(target, fresh, live)
        behaviour = state.behaviour(resource)
        behaviour.default(fresh)
        behaviour.update(fresh, live)
        self._count_generation(target, fresh, live)
        self._check(target, fresh, live)
        behaviour.tidy(fresh)
        if owners is None:
            owners = self._update_managers(target, live, fresh, options, sent["metadata"])
        fresh["metadata"]["managedFields"] = managed.write(owners)
        fresh["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        said = (*warnings, *behaviour.warnings(fresh))
        if fresh == live or options.dry_run:
            return Outcome(status=200, stored=fresh, warnings=said)
        gone = "deletionTimestamp" in fresh["metadata"] and not fresh["metadata"].get("finalizers")
        if gone:
            self._finish(target, fresh)
            return Outcome(status=200, stored=fresh, warnings=said)
        fresh = state.store.put(resource.table, target.key, fresh)
        self._finish(target, fresh)
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

    def _check(self, target: Target, fresh: Object, live: Object | None) -> None:
        """Raises Refusal (422) with everything that is wrong."""
        state, resource = self._state, target.resource
        causes = list(metadata.causes(resource, fresh))
        if live is not None:
            causes += metadata.update_causes(fresh, live)
        view = View(
            old=live,
            subresource=target.subresource,
            minor=state.release.minor,
            namespace_labels=state.namespace_labels(target.namespace),
        )
        causes += state.behaviour(resource).causes(fresh, view)
        if resource.custom:
            causes += self._custom_causes(target, fresh, live)
        if causes:
            raise invalid(resource.kind, resource.group, fresh["metadata"]["name"], causes)

    def _custom_causes(self, target: Target, fresh: Object, live: Object | None) -> list[Cause]:
        schema = target.schema
        if schema is None:
            return []
        body = {key: value for key, value in fresh.items() if key not in ("metadata", "kind", "apiVersion")}
        causes = list(custom_validation.causes(body, schema, ""))
        node = self._state.rules.get((*target.resource.key, target.version))
        if not isinstance(node, rules.Node):
            return causes
        if any(cause.reason in custom_validation.BLOCKING for cause in causes):
            return [*causes, Cause("FieldValueInvalid", f"Invalid value: null: {UNCHECKED}", "<nil>")]
        named = {"metadata": {key: fresh["metadata"][key] for key in ("name",) if key in fresh["metadata"]}}
        return causes + list(rules.violations(node, {**fresh, **named}, live, ""))

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


def _check_versions(target: Target, live: Object, sent: Object) -> None:
    """Raises Refusal (409) if the writer saw another version or another object of the name."""
    resource, meta, old = target.resource, sent["metadata"], live["metadata"]
    version = meta.get("resourceVersion")
    if version and version != old["resourceVersion"]:
        raise conflict(resource.plural, resource.group, target.name)
    uid = meta.get("uid")
    if uid and uid != old["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['uid']}"
        key = "/".join(filter(None, ("/registry", resource.group, resource.plural, target.namespace, target.name)))
        text = f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
        raise conflict(resource.plural, resource.group, target.name, text)


def _decode_custom(body: Object, target: Target, findings: Findings, *, defaults: bool) -> Object:
    schema = target.schema
    result = {key: body[key] for key in ("apiVersion", "kind") if key in body}
    meta = body.get("metadata")
    if meta is not None:
        result["metadata"] = decoding.decode_part(meta, object_meta(), "metadata", target, findings)
    rest = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    if schema is None:
        return result | rest
    rest = decoding.prune(rest, schema, "", findings)
    return result | (decoding.default(rest, schema) if defaults else copy(rest))


def _own_part(sent: Object, target: Target) -> Object:
    """What an applied configuration may own: status through its subresource only, and nothing else there."""
    if target.subresource == "status":
        return {key: value for key, value in sent.items() if key in ("status", "metadata")}
    if target.resource.has_status:
        return {key: value for key, value in sent.items() if key != "status"}
    return sent


def _without_nulls(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _yaml(body: bytes) -> Value:
    try:
        return decode(body)
    except msgspec.DecodeError:
        pass  # not JSON: YAML then
    try:
        return yaml.load(body, Loader=_Loader)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a timestamp is a string."""


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def _patch_body(request: Request) -> Value:
    try:
        return decode(request.body)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
