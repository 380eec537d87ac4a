"""Admission of writes: ValidatingAdmissionPolicies, and who may write which part of a ResourceClaim's status.

Of policies there is what their own text needs: resource rules, match conditions, variables, validations with
message or messageExpression, bindings that deny. No parameters, selectors, authorizer or audit annotations; of CEL
what ``kubesim.rules`` has, so neither optional fields nor type checking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubesim import routing
from kubesim.access import Attributes, Authorizer, User, forbidden_message
from kubesim.cluster import Cluster
from kubesim.faults import Rule
from kubesim.messages import Request, Response
from kubesim.refusals import Cause, Refusal, details, invalid, qualified
from kubesim.routing import ResourcePath
from kubesim.values import Object, Value, decode

if TYPE_CHECKING:
    import cel

NODE_NAME = "authentication.kubernetes.io/node-name"
_OPERATIONS = {"POST": "CREATE", "PUT": "UPDATE", "PATCH": "UPDATE", "DELETE": "DELETE"}
_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What admission is asked about. ``new`` is None for a deletion, ``old`` for a creation."""

    user: User
    found: ResourcePath
    operation: str
    verb: str
    old: Object | None
    new: Object | None

    @property
    def resource(self) -> str:
        return f"{self.found.plural}/{self.found.subresource}" if self.found.subresource else self.found.plural

    @property
    def name(self) -> str:
        whole = self.new or self.old or {}
        return self.found.name or str(whole.get("metadata", {}).get("name", ""))


class Policy:
    """One policy with its binding. Raises ValueError for an expression that can't be parsed."""

    def __init__(self, document: Object, binding: str) -> None:
        import cel

        spec = document["spec"]
        self.name, self.binding = document["metadata"]["name"], binding
        self._rules: list[Object] = spec["matchConstraints"]["resourceRules"]
        self._conditions = [cel.compile(each["expression"]) for each in spec.get("matchConditions", ())]
        self._variables = {each["name"]: cel.compile(each["expression"]) for each in spec.get("variables", ())}
        self._validations = [_Validation(each) for each in spec["validations"]]
        self.denied = 0
        self.passed = 0

    def concerns(self, found: ResourcePath, operation: str) -> bool:
        """Whether a rule of it matches such a write."""
        asked = f"{found.plural}/{found.subresource}" if found.subresource else found.plural
        return any(
            found.group in rule["apiGroups"]
            and (found.version in rule["apiVersions"] or "*" in rule["apiVersions"])
            and operation in rule["operations"]
            and asked in rule["resources"]
            for rule in self._rules
        )

    def judge(self, write: Write) -> None:
        """Raises Refusal if a validation fails, or can't be evaluated (failurePolicy Fail)."""
        given = _spoken(write)
        if not all(_evaluated(condition, given) is True for condition in self._conditions):
            return
        variables: dict[str, Value] = {}
        given = {**given, "variables": variables}
        for name, program in self._variables.items():
            value = _evaluated(program, given)
            if not isinstance(value, _Failed):  # else it is missing where it is used
                variables[name] = value
        for validation in self._validations:
            said = validation.complaint(given)
            if said is not None:
                self.denied += 1
                raise self._refusal(write, said, validation.code)
        self.passed += 1

    def _refusal(self, write: Write, said: str, code: int) -> Refusal:
        found = write.found
        who = f"ValidatingAdmissionPolicy '{self.name}' with binding '{self.binding}' denied request"
        message = f'{qualified(found.plural, found.group)} "{write.name}" is forbidden: {who}: {said}'
        return Refusal(code, message, details=details(write.name, found.group, found.plural))


class _Validation:
    def __init__(self, document: Object) -> None:
        import cel

        self._text: str = document["expression"]
        self._program = cel.compile(self._text)
        self._message: str = document.get("message", f"failed expression: {self._text}")
        expression = document.get("messageExpression")
        self._telling = cel.compile(expression) if expression else None
        self.code = _CODES[document.get("reason", "Invalid")]

    def complaint(self, given: Mapping[str, Value]) -> str | None:
        verdict = _evaluated(self._program, given)
        if verdict is True:
            return None
        if isinstance(verdict, _Failed):
            return f"expression '{self._text}' resulted in error: {verdict.why}"
        said = None if self._telling is None else _evaluated(self._telling, given)
        return said if isinstance(said, str) else self._message


@dataclass(frozen=True, slots=True)
class _Failed:
    """The value of an expression that can't be evaluated: an error where it is used."""

    why: str


def _evaluated(program: cel.Program, given: Mapping[str, Value]) -> Value:
    try:
        return program.execute(dict(given))
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        return _Failed(str(error))


def _spoken(write: Write) -> dict[str, Value]:
    user, found = write.user, write.found
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra.items()}
    request = {
        "operation": write.operation,
        "name": write.name,
        "namespace": found.namespace,
        "subResource": found.subresource,
        "resource": {"group": found.group, "version": found.version, "resource": found.plural},
        "userInfo": info,
    }
    return {"request": request, "object": write.new, "oldObject": write.old}


def policies_in(documents: Iterable[Object]) -> tuple[Policy, ...]:
    """The policies that are bound with the action Deny. Raises KeyError for a binding of none."""
    documents = tuple(documents)
    by_name = {each["metadata"]["name"]: each for each in documents if each["kind"] == "ValidatingAdmissionPolicy"}
    return tuple(
        Policy(by_name[each["spec"]["policyName"]], each["metadata"]["name"])
        for each in documents
        if each["kind"] == "ValidatingAdmissionPolicyBinding" and "Deny" in each["spec"]["validationActions"]
    )


class GuardedCluster(Cluster):
    """A cluster with policies, whose server (1.36 and newer) guards the parts of a claim's status one by one."""

    def __init__(self, release: str, *, policies: Iterable[Policy], authorizer: Authorizer, seed: int = 0) -> None:
        super().__init__(release, seed=seed, authorizer=authorizer)
        self.policies = tuple(policies)

    def answer(self, request: Request, rule: Rule | None = None) -> Response:
        with self._lock:
            try:
                self._admit(request)
            except Refusal as refusal:
                response = refusal.response()
                self._log(request, response.status, rule)
                return response
            return super().answer(request, rule)

    def _admit(self, request: Request) -> None:
        """Raises Refusal. What isn't allowed or makes no sense is left to be refused as in every cluster."""
        found, operation = routing.split(request.path), _OPERATIONS.get(request.method)
        if found is None or operation is None:
            return
        guards: list[Callable[[Write], None]] = [
            policy.judge for policy in self.policies if policy.concerns(found, operation)
        ]
        if self.release.minor >= 36 and (found.group, found.plural, found.subresource) == (
            "resource.k8s.io",
            "resourceclaims",
            "status",
        ):
            guards.append(self._guard_claim)
        if guards:
            self._ask(guards, request, found, operation)

    def _ask(
        self, guards: list[Callable[[Write], None]], request: Request, found: ResourcePath, operation: str
    ) -> None:
        old = self._present(request.path.removesuffix(f"/{found.subresource}")) if found.name else None
        new = None
        if operation != "DELETE":
            trial = self._answer(dataclasses.replace(request, query=(*request.query, ("dryRun", "All"))), behind=0)
            if trial.status >= 300:
                return
            new = decode(trial.body)
        elif old is None:
            return
        if operation == "UPDATE" and old is None:
            operation = "CREATE"
        verb = routing.attributes(request, found).verb
        write = Write(user=self._user(request), found=found, operation=operation, verb=verb, old=old, new=new)
        for guard in guards:
            guard(write)

    def _present(self, path: str) -> Object | None:
        try:
            return self.get(path)
        except Refusal as refusal:
            if refusal.code == 404:
                return None
            raise

    def _guard_claim(self, write: Write) -> None:
        """KEP-4817's rights: allocations need resourceclaims/binding, devices resourceclaims/driver by node."""
        before, after = _status(write.old), _status(write.new)
        if any(before.get(part) != after.get(part) for part in ("allocation", "reservedFor")):
            self._demand(write, "status.allocation", "binding", (write.verb,), "")
        for driver in sorted(_changed_drivers(before, after)):
            near = NODE_NAME in write.user.extra and write.user.extra[NODE_NAME][0] == _node_of(after)
            places = ("associated-node", "arbitrary-node") if near else ("arbitrary-node",)
            self._demand(
                write, "status.devices", "driver", tuple(f"{place}:{write.verb}" for place in places), driver
            )

    def _demand(self, write: Write, field: str, part: str, verbs: tuple[str, ...], driver: str) -> None:
        asked = [
            Attributes(
                verb=verb,
                group=write.found.group,
                resource=write.found.plural,
                subresource=part,
                namespace=write.found.namespace if driver else "",
                name=driver,
            )
            for verb in verbs
        ]
        if any(self.authorizer.allows(write.user, each) for each in asked):
            return
        what = "status.allocation or status.reservedFor" if part == "binding" else field
        verb = verbs[0] if part == "binding" else f"[{' '.join(verbs)}]"
        message = (
            f'Forbidden: changing {what} requires resource="resourceclaims/{part}", verb="{verb}" permission: '
            f"{forbidden_message(write.user, asked[0])}"
        )
        raise invalid(
            "ResourceClaim", write.found.group, write.name, [Cause("FieldValueForbidden", message, field)]
        )


def _status(claim: Object | None) -> Object:
    status: Object = (claim or {}).get("status") or {}
    return status


def _changed_drivers(before: Object, after: Object) -> set[str]:
    """Drivers of which an entry in status.devices is new, gone or another."""
    old, new = before.get("devices", ()), after.get("devices", ())
    return {each["driver"] for each in (*old, *new) if each not in old or each not in new}


def _node_of(status: Object) -> str | None:
    """The one node that an allocation names; None if it names none or several."""
    selector = status.get("allocation", {}).get("nodeSelector", {})
    fields = [each for term in selector.get("nodeSelectorTerms", ()) for each in term.get("matchFields", ())]
    match fields:
        case [{"key": "metadata.name", "operator": "In", "values": [node]}]:
            return str(node)
        case _:
            return None
