"""What is in a request that writes: options, an object, a patch, an applied configuration."""

from dataclasses import dataclass

import msgspec
import yaml

from kubesim import decoding
from kubesim.messages import Request
from kubesim.protobuf import MEDIA_TYPE, MESSAGES, decode_object
from kubesim.refusals import Refusal, bad_request
from kubesim.resources import Target
from kubesim.values import Object, Value, decode, quoted

LARGEST_BODY = 3 * 1024 * 1024
JSON_TYPES = ("application/json", "application/yaml")
ACCEPTED = "application/json, application/yaml, application/vnd.kubernetes.protobuf"


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


def body_of(request: Request, target: Target) -> Object:
    """The object in a request. Raises Refusal: 400, 413 or 415."""
    if len(request.body) > LARGEST_BODY:
        raise Refusal(413, f"Request entity too large: limit is {LARGEST_BODY}")
    if request.content_type == MEDIA_TYPE and target.resource.kind in MESSAGES:
        return checked_type(decode_object(request.body, MESSAGES[target.resource.kind]), target)
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
    return checked_type(body, target)


def checked_type(body: Value, target: Target) -> Object:
    """The body as an object of the target's kind and version. Raises Refusal (400)."""
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


def _without_nulls(value: Value) -> Value:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def configuration_of(request: Request, target: Target) -> Object:
    """The applied configuration in a request, JSON or YAML, without nulls. Raises Refusal (400)."""
    return checked_type(_without_nulls(_yaml(request.body)), target)


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


def _as_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text: str = loader.construct_scalar(node)
    return text


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def patch_of(request: Request) -> Value:
    """The patch in a request: an object or a list. Raises Refusal (400)."""
    try:
        return decode(request.body)
    except msgspec.DecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
