"""The rules of metadata, the same for every kind."""

import re
from collections.abc import Iterator

from kubesim.refusals import Cause, forbidden, invalid_value, required
from kubesim.resources import Resource
from kubesim.values import Object, objects

SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
ANNOTATION_BYTES = 256 * 1024

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    f"'{SUBDOMAIN}')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    f"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{LABEL}')"
)
LABEL_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
    f"validation is '{LABEL_VALUE}')"
)
KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    f"'{QUALIFIED}')"
)
PATH_NAMED = frozenset({"rbac.authorization.k8s.io"})
"""Groups whose names only have to be a path segment."""
LABEL_NAMED = frozenset({"namespaces", "services"})


def name_causes(resource: Resource, name: str, field: str = "metadata.name") -> Iterator[Cause]:
    """What is wrong with an object's name."""
    if resource.group in PATH_NAMED:
        if name in (".", "..") or "/" in name or "%" in name:
            yield invalid_value(field, name, "may not contain '/' or '%'")
    elif resource.plural in LABEL_NAMED:
        yield from label_causes(field, name)
    else:
        yield from subdomain_causes(field, name)


def subdomain_causes(field: str, value: str, longest: int = 253) -> Iterator[Cause]:
    if len(value) > longest:
        yield invalid_value(field, value, f"must be no more than {longest} bytes")
    if not re.fullmatch(SUBDOMAIN, value):
        yield invalid_value(field, value, SUBDOMAIN_RULE)


def label_causes(field: str, value: str) -> Iterator[Cause]:
    if len(value) > 63:
        yield invalid_value(field, value, "must be no more than 63 bytes")
    if not re.fullmatch(LABEL, value):
        yield invalid_value(field, value, LABEL_RULE)


def causes(resource: Resource, checked: Object) -> Iterator[Cause]:
    """What is wrong with the metadata of an object that is about to be stored."""
    meta = checked["metadata"]
    if resource.namespaced and not meta.get("namespace"):
        yield required("metadata.namespace")
    yield from name_causes(resource, meta["name"])
    for key, value in (meta.get("labels") or {}).items():
        yield from _key_causes("metadata.labels", key)
        if len(value) > 63:
            yield invalid_value("metadata.labels", value, "must be no more than 63 bytes")
        elif not re.fullmatch(LABEL_VALUE, value):
            yield invalid_value("metadata.labels", value, LABEL_VALUE_RULE)
    annotations = meta.get("annotations") or {}
    for key in annotations:
        yield from _key_causes("metadata.annotations", key)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > ANNOTATION_BYTES:
        message = f"Too long: may not be more than {ANNOTATION_BYTES} bytes"
        yield Cause("FieldValueTooLong", message, "metadata.annotations")
    for index, owner in enumerate(objects(meta.get("ownerReferences"))):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(part):
                yield invalid_value(f"metadata.ownerReferences[{index}].{part}", "", f"{part} must not be empty")
    for finalizer in meta.get("finalizers") or ():
        yield from _key_causes("metadata.finalizers", finalizer)


def update_causes(changed: Object, old: Object) -> Iterator[Cause]:
    """What an update may not do to metadata."""
    if "deletionTimestamp" not in old["metadata"]:
        return
    before = set(old["metadata"].get("finalizers") or ())
    fresh = [each for each in changed["metadata"].get("finalizers") or () if each not in before]
    if fresh:
        listed = ", ".join(f'"{each}"' for each in fresh)
        why = "no new finalizers can be added if the object is being deleted, found new finalizers []string{"
        yield forbidden("metadata.finalizers", f"{why}{listed}}}")


def _key_causes(field: str, key: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and not re.fullmatch(SUBDOMAIN, prefix):
        yield invalid_value(field, key, f"prefix part {SUBDOMAIN_RULE}")
    if len(name) > 63:
        yield invalid_value(field, key, "name part must be no more than 63 bytes")
    elif not re.fullmatch(QUALIFIED, name):
        yield invalid_value(field, key, KEY_RULE)
