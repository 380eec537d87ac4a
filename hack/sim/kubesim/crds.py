"""CustomResourceDefinitions: how they come into force and go."""

from kubesim import managed, rules
from kubesim.documents import object_meta
from kubesim.resources import Resource
from kubesim.schema import Schema
from kubesim.state import State
from kubesim.values import Object, at, copy, objects

DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def resource_of(definition: Object, meta: Schema) -> Resource:
    """The resource that a definition makes; `meta` is the schema of metadata."""
    spec = definition["spec"]
    names, versions = spec["names"], list(objects(spec["versions"]))
    served = sorted((each for each in versions if each.get("served")), key=_priority)
    schemas = {each["name"]: Schema(each["schema"]["openAPIV3Schema"]) for each in served}
    return Resource(
        group=spec["group"],
        versions=tuple(each["name"] for each in served),
        plural=names["plural"],
        kind=names["kind"],
        singular=names["singular"],
        internal=next(each["name"] for each in versions if each.get("storage")),
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(sorted({part for each in served for part in each.get("subresources") or {}})),
        list_kind=names["listKind"],
        definition=definition,
        schemas=schemas,
        ownership={name: _with_metadata(schema, meta) for name, schema in schemas.items()},
        deprecated={each["name"]: _deprecation(spec, each) for each in served if each.get("deprecated")},
    )


def _priority(version: Object) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: v2, v1, v1beta2, v1beta1, v1alpha1, then others by name."""
    name: str = version["name"]
    for rank, word in ((1, "beta"), (2, "alpha")):
        major, found, minor = name.removeprefix("v").partition(word)
        if found and major.isdigit() and minor.isdigit():
            return rank, -int(major), -int(minor), ""
    number = name.removeprefix("v")
    return (0, -int(number), 0, "") if name.startswith("v") and number.isdigit() else (3, 0, 0, name)


def _with_metadata(schema: Schema, meta: Schema) -> Schema:
    properties = {**schema.raw.get("properties", {}), "metadata": meta.raw}
    return Schema({**schema.raw, "properties": properties}, meta.definitions)


def _deprecation(spec: Object, version: Object) -> str:
    kind = spec["names"]["kind"]
    text: str = version.get("deprecationWarning") or f"{spec['group']}/{version['name']} {kind} is deprecated"
    return text


def install(state: State, definition: Object) -> None:
    """Bring a definition into force and say so in its status, as the server's own controllers do."""
    meta = object_meta(state.release.document("", "v1") or "")
    resource = resource_of(definition, meta)
    state.resources[resource.key] = resource
    for version, schema in resource.schemas.items():
        state.rules[(*resource.key, version)] = rules.compiled(schema)
    established = at(definition, "status", "conditions")
    accepted = copy(definition["spec"]["names"])
    if established and definition["status"].get("acceptedNames") == accepted:
        return
    now = state.now()
    conditions = [
        {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found"},
        {
            "type": "Established",
            "status": "True",
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
        },
    ]
    status = {
        **definition["status"],
        "acceptedNames": accepted,
        "conditions": [{**condition, "lastTransitionTime": now} for condition in conditions],
    }
    _write_status(state, definition, status, now, meta)


def _write_status(state: State, definition: Object, status: Object, now: str, metadata: Schema) -> None:
    meta = definition["metadata"]
    changed = {**definition, "status": status}
    schema = state.resources[DEFINITIONS].schemas.get("v1")
    writer = managed.Manager(
        name="kube-apiserver",
        operation="Update",
        api_version="apiextensions.k8s.io/v1",
        subresource="status",
        time=now,
    )
    owners = managed.after_update(definition, changed, schema, managed.read(meta), writer)
    changed = {**changed, "metadata": {**meta, "managedFields": managed.write(owners)}}
    stored = state.store.put(DEFINITIONS, ("", meta["name"]), changed)
    key = definition["spec"]["group"], definition["spec"]["names"]["plural"]
    state.resources[key] = resource_of(stored, metadata)


def terminating(definition: Object, now: str) -> Object:
    """The definition with the condition that its objects are being removed."""
    condition = {
        "type": "Terminating",
        "status": "True",
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        "lastTransitionTime": now,
    }
    status = definition["status"]
    return {**definition, "status": {**status, "conditions": [*(status.get("conditions") or ()), condition]}}


def uninstall(state: State, resource: Resource) -> None:
    """Take a kind out of service."""
    state.resources.pop(resource.key, None)
    for version in resource.versions:
        state.rules.pop((*resource.key, version), None)
    state.store.drop_table(resource.key)
