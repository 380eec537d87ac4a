"""The simulated API server, without HTTP: `handle` answers requests, `watch` opens watches."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

from kubesim import discovery, openapi, reviews, routing
from kubesim.access import ADMIN, AllowAll, Attributes, Authorizer, User, forbidden_message
from kubesim.builtin import builtin_resources
from kubesim.clock import Clock, SystemClock
from kubesim.faults import Fault, Faults, Rule
from kubesim.messages import Request, Response, json_response, text_response
from kubesim.refusals import Refusal, conflict, details, method_not_allowed, no_such_path
from kubesim.releases import release as release_named
from kubesim.resource_api import ResourceApi
from kubesim.resources import Target
from kubesim.routing import ResourcePath
from kubesim.state import State
from kubesim.store import Store
from kubesim.values import Object, encode
from kubesim.watching import Rhythm, Watch

HEALTH = ("/healthz", "/livez", "/readyz")
NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
NOT_ACCEPTABLE = (
    "406: Not Acceptable\n\nAvailable representations: "
    "application/json, application/yaml, application/vnd.kubernetes.protobuf"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One request and what it came to: a status, or the fault that kept it from an answer."""

    at: float
    request: Request
    user: str
    status: int
    fault: Fault | None = None


class Cluster:
    """One API server with its objects. Everything may be called from any thread.

    `classic` switches the gate DRAControlPlaneController on, which 1.31 alone has (older releases are classic).
    `seed` decides on names, uids and the chances of faults; `tokens` are the bearer tokens it knows. A request
    without credentials is the administrator's, unless `anonymous` is given.
    """

    def __init__(
        self,
        release: str = "1.36",
        *,
        classic: bool = False,
        seed: int = 0,
        clock: Clock | None = None,
        authorizer: Authorizer | None = None,
        tokens: Mapping[str, User] | None = None,
        anonymous: User = ADMIN,
        history: int = 10_000,
        bookmark_every: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.release = release_named(release, classic=classic)
        self.clock = clock or SystemClock()
        self.authorizer = authorizer or AllowAll()
        self.tokens = dict(tokens or {})
        self.requests: list[Logged] = []
        self.bookmark_every = bookmark_every
        self._anonymous = anonymous
        self._sleep = sleep
        self._lock = threading.RLock()
        rng = random.Random(seed)
        self._rng = rng
        self._faults = Faults(random.Random(rng.getrandbits(64)))
        self.state = State(
            store=Store(history),
            release=self.release,
            clock=self.clock,
            rng=rng,
            resources=builtin_resources(self.release),
        )
        self._api = ResourceApi(self.state)
        self._watches: dict[Watch, Target] = {}
        for name in NAMESPACES:
            self.create("/api/v1/namespaces", {"metadata": {"name": name}})

    def handle(self, request: Request) -> Response:
        """Answer a request. Raises ConnectionError for a fault that breaks the connection."""
        rule = self.strike(request)
        if rule is not None and rule.fault is Fault.SLOW:
            self._sleep(rule.seconds)
        return self.answer(request, rule)

    def watch(self, request: Request) -> Watch:
        """Open a watch; its status is not 200 if it was refused. Raises ConnectionError as `handle` does."""
        rule = self.strike(request)
        if rule is not None and rule.fault is Fault.SLOW:
            self._sleep(rule.seconds)
        return self.open(request, rule)

    def strike(self, request: Request) -> Rule | None:
        """The fault that is to happen to a request, if any; uses it up."""
        with self._lock:
            return self._faults.strike(request)

    def answer(self, request: Request, rule: Rule | None = None) -> Response:
        """`handle` with the fault decided on (and waited for)."""
        with self._lock:
            response = self._faulty(request, rule)
            if response is None:
                response = self._answer(request, behind=rule.behind if rule and rule.fault is Fault.STALE else 0)
            self._log(request, response.status, rule)
            if rule is not None and rule.fault is Fault.DROPPED:
                raise ConnectionResetError(f"dropped before the answer to {request.method} {request.url}")
            return response

    def open(self, request: Request, rule: Rule | None = None) -> Watch:
        """`watch` with the fault decided on (and waited for)."""
        with self._lock:
            refused = self._faulty(request, rule) if not (rule and rule.fault is Fault.EXPIRED) else None
            watch = self._refused(refused) if refused else self._open(request, rule)
            self._log(request, watch.status, rule)
            return watch

    def add_fault(self, rule: Rule) -> None:
        with self._lock:
            self._faults.add(rule)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def compact(self) -> None:
        """Forget history: watches and continuations from older versions are answered with 410."""
        with self._lock:
            self.state.store.compact()

    def drop_watches(self, plural: str = "") -> None:
        """Break all connections of watches, or those of one resource."""
        for watch in self._watches_of(plural):
            watch.drop()

    def freeze_watches(self, plural: str = "") -> None:
        """Make watches half-open: nothing comes any more, and nothing says so."""
        for watch in self._watches_of(plural):
            watch.frozen = True

    def end_watches(self, plural: str = "") -> None:
        """End watches as their timeout would."""
        for watch in self._watches_of(plural):
            watch.finish()

    @property
    def open_watches(self) -> int:
        with self._lock:
            return len(self._watches)

    @contextmanager
    def unobserved(self) -> Iterator[State]:
        """The state itself, under the lock: for actors and tests that look without asking."""
        with self._lock:
            yield self.state

    # Short cuts for tests and actors: no faults, no log, the administrator's rights.

    def get(self, path: str) -> Object:
        """An object or list by URL. Raises Refusal."""
        return self._direct(Request.to("GET", path))

    def create(self, path: str, body: Object) -> Object:
        """Raises Refusal."""
        return self._direct(Request.to("POST", path, body))

    def replace(self, path: str, body: Object) -> Object:
        """Raises Refusal."""
        return self._direct(Request.to("PUT", path, body))

    def merge(self, path: str, patch: Object) -> Object:
        """A merge patch. Raises Refusal."""
        return self._direct(Request.to("PATCH", path, patch, content_type="application/merge-patch+json"))

    def delete(self, path: str) -> Object:
        """Raises Refusal."""
        return self._direct(Request.to("DELETE", path))

    def load(self, manifests: str) -> list[Object]:
        """Create the objects of a YAML text, in order. Raises Refusal, or ValueError for a kind nobody serves."""
        return [self._create_any(each) for each in yaml.safe_load_all(manifests) if each]

    def _create_any(self, body: Object) -> Object:
        group, _, version = str(body.get("apiVersion", "")).rpartition("/")
        for resource in list(self.state.served()):
            if (resource.group, resource.kind) == (group, body.get("kind")) and version in resource.versions:
                namespace = body["metadata"].get("namespace", "default")
                inside = f"namespaces/{namespace}/" if resource.namespaced else ""
                return self.create(f"/{resource.base_path(version)}/{inside}{resource.plural}", body)
        raise ValueError(f"no such kind: {body.get('kind')} of {body.get('apiVersion')}")

    def _direct(self, request: Request) -> Object:
        found = routing.split(request.path)
        if found is None:
            raise no_such_path()
        with self._lock:
            return self._api.direct(request, routing.target_of(found, self.state))

    def _watches_of(self, plural: str) -> list[Watch]:
        with self._lock:
            return [watch for watch, target in self._watches.items() if plural in ("", target.resource.plural)]

    def _log(self, request: Request, status: int, rule: Rule | None) -> None:
        user = self._user_name(request)
        fault = rule.fault if rule else None
        self.requests.append(
            Logged(at=self.clock.monotonic(), request=request, user=user, status=status, fault=fault)
        )

    def _user_name(self, request: Request) -> str:
        try:
            return self._user(request).name
        except Refusal:
            return ""

    def _user(self, request: Request) -> User:
        """Raises Refusal (401) for a token that nobody issued."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            user = self.tokens.get(token)
            if user is None:
                raise Refusal(401, "Unauthorized")
            return user
        return request.user or self._anonymous

    def _faulty(self, request: Request, rule: Rule | None) -> Response | None:
        """The answer that a fault gives instead of the server. Raises ConnectionError."""
        match rule.fault if rule else None:
            case Fault.REFUSED:
                self._log(request, 0, rule)
                raise ConnectionRefusedError(f"refused: {request.method} {request.url}")
            case Fault.LOST:
                self._log(request, 0, rule)
                raise ConnectionResetError(f"lost: {request.method} {request.url}")
            case Fault.THROTTLED:
                text = "Too many requests, please try again later.\n"
                return text_response(429, text, ("Retry-After", "1"))
            case Fault.INTERNAL:
                return Refusal(500, "Internal error occurred: injected fault", details={}).response()
            case Fault.UNAVAILABLE:
                return Refusal(503, "the server is currently unable to handle the request", details={}).response()
            case Fault.EXPIRED if request.method == "GET":
                return Refusal(410, "The resourceVersion for the provided list is too old.").response()
            case Fault.CONFLICT if request.method in ("PUT", "PATCH", "DELETE", "POST"):
                return self._conflict(request)
            case _:
                return None

    def _conflict(self, request: Request) -> Response:
        found = routing.split(request.path)
        if found is None:
            return conflict("objects", "", "").response()
        return conflict(found.plural, found.group, found.name).response()

    def _answer(self, request: Request, behind: int) -> Response:
        try:
            user = self._user(request)
            found = routing.split(request.path)
            self._authorize(user, routing.attributes(request, found), found)
            if found is None or request.path.rstrip("/") == reviews.PATH:
                return self._other(request, user)
            target = routing.target_of(found, self.state)
            _check_accept(request)
            return self._api.answer(request, target, behind=behind)
        except Refusal as refusal:
            return refusal.response()

    def _authorize(self, user: User, wanted: Attributes, found: ResourcePath | None) -> None:
        if self.authorizer.allows(user, wanted):
            return
        about = details(wanted.name, wanted.group, wanted.resource) if found else {}
        raise Refusal(
            403, forbidden_message(user, wanted), details=about, headers=(("X-Content-Type-Options", "nosniff"),)
        )

    def _other(self, request: Request, user: User) -> Response:
        path = request.path.rstrip("/") or "/"
        if path == reviews.PATH and request.method == "POST":
            return reviews.answer(request, user, self.authorizer)
        known = path in ("/version", "/openapi/v2", *HEALTH) or path.split("/")[1] in ("api", "apis", "openapi")
        if not known:
            raise no_such_path()
        if request.method != "GET":
            raise method_not_allowed()
        if path == "/version":
            return json_response(200, self.release.version_info())
        if path in HEALTH:
            return text_response(200, "ok")
        if path.startswith("/openapi/v3"):
            return openapi.answer(request, self.state)
        if path == "/openapi/v2":
            return openapi.answer_older(request, self.state)
        if path.startswith("/openapi"):
            raise no_such_path()
        return discovery.answer(request, self.state)

    def _open(self, request: Request, rule: Rule | None) -> Watch:
        try:
            user = self._user(request)
            found = routing.split(request.path)
            self._authorize(user, routing.attributes(request, found), found)
            if found is None:
                raise no_such_path()
            target = routing.target_of(found, self.state)
            _check_accept(request)
            watch = self._api.watch(request, target, self._rhythm(request), self._closed)
        except Refusal as refusal:
            return self._refused(refusal.response())
        self._watches[watch] = target
        if rule is not None:
            _spoil(watch, rule)
        return watch

    def _rhythm(self, request: Request) -> Rhythm:
        asked = request.option("timeoutSeconds")
        timeout = float(asked) if asked else self._rng.uniform(1800, 3600)
        bookmarks = self.bookmark_every if request.flag("allowWatchBookmarks") else 0.0
        return Rhythm(timeout=timeout, bookmarks=bookmarks)

    def _closed(self, watch: Watch, stop: Callable[[], None]) -> None:
        with self._lock:
            stop()
            self._watches.pop(watch, None)

    def _refused(self, response: Response) -> Watch:
        watch = Watch(self.clock, Rhythm(timeout=60), bytes, lambda _: None)
        watch.status, watch.headers = response.status, response.headers
        watch.feed(response.body)
        watch.finish()
        return watch


def _spoil(watch: Watch, rule: Rule) -> None:
    """Make a watch go wrong in its own way."""
    match rule.fault:
        case Fault.EXPIRED:
            watch.restart_with(
                encode({"type": "ERROR", "object": Refusal(410, "too old resource version").status()})
            )
        case Fault.HALF_OPEN:
            watch.spoil_after(rule.events, frozen=True)
        case Fault.WATCH_DROPPED | Fault.DROPPED:
            watch.spoil_after(rule.events, frozen=False)
        case _:
            pass


def _check_accept(request: Request) -> None:
    """Raises Refusal (406)."""
    kinds = [each.partition(";")[0].strip() for each in request.accept.split(",") if each.strip()]
    known = ("application/json", "application/*", "*/*", "application/vnd.kubernetes.protobuf")
    if kinds and not any(kind in known for kind in kinds):
        raise Refusal(406, NOT_ACCEPTABLE, details={})
