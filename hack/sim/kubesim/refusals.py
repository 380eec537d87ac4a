"""Everything the server refuses, with the status, reason and words that the real one uses."""

from collections.abc import Sequence
from dataclasses import dataclass

from kubesim.messages import Response, json_response, text_response
from kubesim.values import Object, Value, quoted

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
UNCHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One field of a 422: the cause's reason, its words and the path of the field."""

    reason: str
    message: str
    field: str

    def as_json(self) -> Object:
        return {"reason": self.reason, "message": self.message, "field": self.field}


class Refusal(Exception):
    """An answer other than success; becomes a Status, or plain text where the real server sends that."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        details: Object | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        metadata: Object | None = None,
        plain: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = REASONS[code] if reason is None else reason
        self.details = details
        self.headers = headers
        self.metadata = metadata or {}
        self.plain = plain

    def status(self) -> Object:
        """The Status object (metav1.Status)."""
        status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}

    def response(self) -> Response:
        if self.plain:
            return text_response(self.code, self.message, *self.headers)
        return json_response(self.code, self.status(), *self.headers)


def details(name: str, group: str, kind: str) -> Object:
    """The details of a Status; empty parts are left out."""
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def qualified(word: str, group: str) -> str:
    return f"{word}.{group}" if group else word


def bad_request(message: str) -> Refusal:
    return Refusal(400, message)


def not_found(plural: str, group: str, name: str) -> Refusal:
    return Refusal(404, f'{qualified(plural, group)} "{name}" not found', details=details(name, group, plural))


def no_such_path() -> Refusal:
    return Refusal(404, "the server could not find the requested resource", details={})


def no_such_group() -> Refusal:
    return Refusal(404, "404 page not found\n", plain=True)


def method_not_allowed() -> Refusal:
    return Refusal(405, "the server does not allow this method on the requested resource", details={})


def already_exists(plural: str, group: str, name: str) -> Refusal:
    message = f'{qualified(plural, group)} "{name}" already exists'
    return Refusal(409, message, reason="AlreadyExists", details=details(name, group, plural))


def conflict(kind: str, group: str, name: str, message: str = MODIFIED) -> Refusal:
    """`kind` is the plural for writes, the kind for the preconditions of a delete: so does the real server."""
    text = f'Operation cannot be fulfilled on {qualified(kind, group)} "{name}": {message}'
    return Refusal(409, text, details=details(name, group, kind))


def expired(message: str, *, resume: str = "") -> Refusal:
    return Refusal(410, message, metadata={"continue": resume} if resume else {})


def future_version(asked: int, current: int) -> Refusal:
    return Refusal(
        504,
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
        headers=(("Retry-After", "1"),),
    )


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> Refusal:
    """422 with its causes; several are listed in brackets."""
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    said = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return Refusal(
        422,
        f'{qualified(kind, group)} "{name}" is invalid: {said}',
        details=details(name, group, kind) | {"causes": [cause.as_json() for cause in causes]},
    )


def unprocessable() -> Refusal:
    return Refusal(422, "the server rejected our request due to an error in our request", details={})


def required(field: str, why: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {why}" if why else "Required value", field)


def invalid_value(field: str, value: Value, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {quoted(value)}: {why}", field)


def forbidden(field: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {why}", field)


def unsupported(field: str, value: Value, allowed: Sequence[Value]) -> Cause:
    listed = ", ".join(quoted(each) for each in allowed)
    return Cause(
        "FieldValueNotSupported", f"Unsupported value: {quoted(value)}: supported values: {listed}", field
    )


def duplicate(field: str, value: Value) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {quoted(value)}", field)


def too_many(field: str, count: int, most: int) -> Cause:
    return Cause("FieldValueTooMany", f"Too many: {count}: must have at most {most} items", field)


def too_long(field: str, most: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {most} bytes", field)
