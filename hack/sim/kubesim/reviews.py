"""SelfSubjectAccessReview: may I? (`kubectl auth can-i`)"""

from collections.abc import Mapping

from kubesim.access import Attributes, Authorizer, User
from kubesim.messages import Request, Response, json_response
from kubesim.protobuf import ENVELOPE, MEDIA_TYPE, Message, decode_object
from kubesim.refusals import bad_request
from kubesim.values import Object, decode

PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_ATTRIBUTES = ("namespace", "verb", "group", "version", "resource", "subresource", "name")
REVIEW: Message = {
    2: (
        "spec",
        {
            1: ("resourceAttributes", {number: (name, str) for number, name in enumerate(_ATTRIBUTES, start=1)}),
            2: ("nonResourceAttributes", {1: ("path", str), 2: ("verb", str)}),
        },
    )
}


def answer(request: Request, user: User, authorizer: Authorizer) -> Response:
    """Raises Refusal (400)."""
    review = _decoded(request)
    spec: Mapping[str, Object] = review.get("spec") or {}
    asked = spec.get("resourceAttributes") or spec.get("nonResourceAttributes")
    if not asked:
        raise bad_request("spec.resourceAttributes or spec.nonResourceAttributes must be given")
    known = {key: str(value) for key, value in asked.items() if key in (*_ATTRIBUTES, "path")}
    allowed = authorizer.allows(user, Attributes(**known))
    status: Object = {"allowed": allowed}
    return json_response(
        201,
        {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {"creationTimestamp": None},
            "spec": dict(spec),
            "status": status,
        },
    )


def _decoded(request: Request) -> Object:
    if request.content_type == MEDIA_TYPE or request.body.startswith(ENVELOPE):
        return decode_object(request.body, REVIEW)
    review = decode(request.body)
    if not isinstance(review, dict):
        raise bad_request("the object provided is unrecognized (must be of type SelfSubjectAccessReview)")
    return review
