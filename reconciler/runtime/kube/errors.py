"""What an API server may answer instead of what was asked for.

    ApiError
    ├── NotFound 404        ├── Expired 410          ├── TooManyRequests 429
    ├── AlreadyExists 409   ├── Invalid 422          ├── ServerFault 5xx
    ├── Conflict 409        ├── Unauthorized 401     ├── Unreachable (no answer)
    └── Garbled (an answer that cannot be read)      └── Forbidden 403

Anything else is a plain ApiError. Bodies are Status objects, except where the server answers in text/plain: 404
for a group it doesn't serve, 429 from priority and fairness, and whatever a proxy in between may say.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from reconciler.runtime.kube.transport import JSON, Request, Response

_TEXT_SHOWN = 200  # characters of a body that is no Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One of several reasons, with the field it is about; empty where the server doesn't say."""

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """A request that didn't succeed. `status` is 0 if there was no answer; `retry_after` in seconds."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        causes: tuple[Cause, ...] = (),
        retry_after: float | None = None,
        about: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.causes = causes
        self.retry_after = retry_after
        self.about = about
        """Method and path of the request."""

    def __str__(self) -> str:
        answer = " ".join(part for part in (str(self.status or ""), self.reason) if part)
        return ": ".join(part for part in (self.about, answer, self.message) if part)


class NotFound(ApiError):
    """404: no such object (or namespace), or nobody serves such objects."""

    resource_absent = True
    """The path itself is unknown: the group, its version or the resource is not served (any more). Only where an
    object is missing does the answer name one.
    """


class AlreadyExists(ApiError):
    """409 to a creation."""


class Conflict(ApiError):
    """409: another resourceVersion or uid than the write asked for, or (server-side apply) fields owned by
    others.
    """


class Expired(ApiError):
    """410: a resourceVersion or continue token that is too old; list again."""


class Invalid(ApiError):
    """422: the object is refused, see `causes`. A failed test of a JSON patch is this too, without causes."""


class Forbidden(ApiError):
    """403: known, but not allowed to do this."""


class Unauthorized(ApiError):
    """401: credentials missing, unknown or expired."""


class TooManyRequests(ApiError):
    """429: not processed; to be sent again after `retry_after`."""


class ServerFault(ApiError):
    """5xx. Whether a write was done is unknown."""


class Unreachable(ApiError):
    """No answer. Whether a write was done is unknown, unless `never_sent`; `__cause__` is the transport's error.

    `silent`: a connection that stood, but brought nothing, or not all, in the time it was given.
    """

    def __init__(self, message: str, *, about: str = "", never_sent: bool = False, silent: bool = False) -> None:
        super().__init__(message, about=about)
        self.never_sent = never_sent
        self.silent = silent


class Garbled(ApiError):
    """An answer that is not what was asked for; `__cause__` is the decoder's error."""


class _StatusCause(msgspec.Struct):
    reason: str = ""
    message: str = ""
    field: str = ""


class _Details(msgspec.Struct):
    name: str = ""
    causes: list[_StatusCause] = []


class _Status(msgspec.Struct):
    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details = msgspec.field(default_factory=_Details)


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def error_of(response: Response, request: Request) -> ApiError:
    """The error that a response with any status but 2xx stands for."""
    return _make(_read_status(response), response, f"{request.method} {request.path}")


def error_of_event(status_object: bytes, about: str) -> ApiError:
    """The error in a watch event of type ERROR, whose object is a Status."""
    head = Response(status=500, headers={"content-type": JSON}, body=status_object)
    status = _read_status(head)
    return _make(status, Response(status=status.code or 500), about)


def _make(status: _Status, response: Response, about: str) -> ApiError:
    kind = _BY_STATUS.get(response.status, ServerFault if response.status >= 500 else ApiError)
    if kind is Conflict and status.reason == "AlreadyExists":
        kind = AlreadyExists
    error = kind(
        status.message or "no message",
        status=response.status,
        reason=status.reason,
        causes=tuple(Cause(reason=c.reason, message=c.message, field=c.field) for c in status.details.causes),
        retry_after=_seconds(response.headers.get("retry-after", "")),
        about=about,
    )
    if isinstance(error, NotFound):
        error.resource_absent = not status.details.name
    return error


def _read_status(response: Response) -> _Status:
    try:
        status = msgspec.json.decode(response.body, type=_Status)
        if status.kind == "Status":
            return status
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # no Status: the text is the message
    text = response.body.decode(errors="replace").strip()
    return _Status(message=text[:_TEXT_SHOWN] + ("…" if len(text) > _TEXT_SHOWN else ""))


def _seconds(retry_after: str) -> float | None:
    # API servers send whole seconds; a date (from some proxy) would need the wall clock, the back-off serves as
    # well.
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
