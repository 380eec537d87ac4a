"""What stands between a new state of an object and the store: versions, metadata, the kind's rules."""

from kubesim import custom_validation, metadata, rules
from kubesim.kinds.behaviour import View
from kubesim.refusals import UNCHECKED, Cause, conflict, invalid
from kubesim.resources import Target
from kubesim.state import State
from kubesim.values import Object


def check(state: State, target: Target, fresh: Object, live: Object | None) -> None:
    """Everything an object must meet before it is stored. Raises Refusal (422) with all that is wrong."""
    resource = target.resource
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
        causes += _custom_causes(state, target, fresh, live)
    if causes:
        raise invalid(resource.kind, resource.group, fresh["metadata"]["name"], causes)


def _custom_causes(state: State, target: Target, fresh: Object, live: Object | None) -> list[Cause]:
    schema = target.schema
    if schema is None:
        return []
    body = {key: value for key, value in fresh.items() if key not in ("metadata", "kind", "apiVersion")}
    causes = list(custom_validation.causes(body, schema, ""))
    node = state.rules.get((*target.resource.key, target.version))
    if node is None:
        return causes
    if any(cause.reason in custom_validation.BLOCKING for cause in causes):
        return [*causes, Cause("FieldValueInvalid", f"Invalid value: null: {UNCHECKED}", "<nil>")]
    named = {"metadata": {key: fresh["metadata"][key] for key in ("name",) if key in fresh["metadata"]}}
    return causes + list(rules.violations(node, {**fresh, **named}, live, ""))


def check_versions(target: Target, live: Object, sent: Object) -> None:
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
