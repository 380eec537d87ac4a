"""Merge patch (RFC 7386), JSON patch (RFC 6902) and the strategic merge patch of Kubernetes."""

import jsonpatch
import jsonpointer

from kubesim.refusals import Refusal, bad_request, unprocessable
from kubesim.schema import Schema
from kubesim.values import Object, Value, copy


def merge(target: Value, patch: Value) -> Value:
    """A merge patch: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def json_patch(target: Object, operations: Value) -> Object:
    """A JSON patch. Raises Refusal: 400 if it is no list of operations, 422 if it does not fit the object."""
    if not isinstance(operations, list):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type jsonpatch.Patch")
    try:
        patched = jsonpatch.apply_patch(copy(target), operations)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise unprocessable() from error
    if not isinstance(patched, dict):
        raise unprocessable()
    return patched


def strategic(target: Value, patch: Value, schema: Schema | None) -> Value:
    """A strategic merge patch: lists with a merge key merge by it, lists of primitives by value."""
    if isinstance(patch, dict):
        return _strategic_object(target if isinstance(target, dict) else {}, patch, schema)
    if not isinstance(patch, list) or schema is None or not isinstance(target, list):
        return _without_directives(patch)
    if schema.merge_key:
        return _strategic_list(target, patch, schema)
    if schema.merges_primitives:
        return [*target, *(each for each in patch if each not in target)]
    return copy(patch)


def _strategic_object(target: Object, patch: Object, schema: Schema | None) -> Object:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: _without_directives(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target)
    if isinstance(kept := patch.get("$retainKeys"), list):
        result = {key: value for key, value in result.items() if key in kept}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [each for each in result.get(name, ()) if each not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = strategic(result.get(key), value, schema.member(key) if schema else None)
    for key, value in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.partition("/")[2]
            _reorder(result, name, value, schema.member(name) if schema else None)
    return result


def _strategic_list(target: list[Value], patch: list[Value], schema: Schema) -> list[Value]:
    key = schema.merge_key
    if any(item.get("$patch") == "replace" for item in patch):
        return [_without_directives(item) for item in patch if "$patch" not in item]
    result = list(target)
    for item in patch:
        if key not in item:
            raise Refusal(
                500,
                f"map: {item} does not contain declared merge key: {key}",
                details={"causes": [{"message": key}]},
            )
        place = next((i for i, present in enumerate(result) if present.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            result = [each for each in result if each.get(key) != item[key]]
        elif place is None:
            result.append(_without_directives(item))
        else:
            result[place] = strategic(result[place], item, schema.items)
    return result


def _reorder(result: Object, name: str, order: list[Value], schema: Schema | None) -> None:
    """Put the named items into the order given; others keep their places at the end."""
    present = result.get(name)
    if not isinstance(present, list):
        return
    key = schema.merge_key if schema else ""
    wanted = [item.get(key) if isinstance(item, dict) else item for item in order]
    identity = [item.get(key) if isinstance(item, dict) else item for item in present]
    rank = {str(value): index for index, value in enumerate(wanted)}
    pairs = sorted(zip(identity, present, strict=True), key=lambda pair: rank.get(str(pair[0]), len(rank)))
    result[name] = [item for _, item in pairs]


def _without_directives(value: Value) -> Value:
    if isinstance(value, dict):
        return {
            key: _without_directives(each)
            for key, each in value.items()
            if not key.startswith("$") and each is not None
        }
    if isinstance(value, list):
        return [_without_directives(each) for each in value if not (isinstance(each, dict) and "$patch" in each)]
    return value
