"""How an object begins: its name, its namespace, its uid."""

from kubesim import managed
from kubesim.refusals import Refusal, bad_request, invalid, not_found, required
from kubesim.resources import Target
from kubesim.state import NAMESPACES, State
from kubesim.values import Object


def new_metadata(state: State, sent: Object, target: Target) -> Object:
    """The metadata of an object that is about to be created. Raises Refusal (400, 403, 404, 422)."""
    resource = target.resource
    meta = {key: value for key, value in sent.items() if key not in managed.UNTRACKED_METADATA}
    if sent.get("resourceVersion"):
        raise bad_request("resourceVersion should not be set on objects to be created")
    if resource.namespaced:
        namespace = sent.get("namespace") or target.namespace
        if namespace != target.namespace:
            raise bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        _check_namespace(state, target, sent)
        meta["namespace"] = namespace
    meta["name"] = sent.get("name") or ""
    if not meta["name"] and meta.get("generateName"):
        meta["name"] = meta["generateName"][:58] + state.new_suffix()
    if not meta["name"]:
        causes = [required("metadata.name", "name or generateName is required")]
        raise invalid(resource.kind, resource.group, "", causes)
    return meta | {"uid": state.new_uid(), "creationTimestamp": state.now()}


def _check_namespace(state: State, target: Target, sent: Object) -> None:
    namespace = state.store.get(NAMESPACES, ("", target.namespace))
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
