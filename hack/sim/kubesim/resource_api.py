"""Requests for resources: which operation a method means, and how its result goes back."""

from collections.abc import Callable

from kubesim import reading, tables
from kubesim.bodies import Options, body_of
from kubesim.deleting import DeleteOptions, Deleter, named
from kubesim.messages import Request, Response, json_response
from kubesim.refusals import Cause, expired, forbidden, invalid, method_not_allowed
from kubesim.resources import Resource, Target
from kubesim.state import State
from kubesim.store import Change, Step
from kubesim.values import Object, encode
from kubesim.watching import Rhythm, Watch, seen
from kubesim.writing import Outcome, Writer

INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


class ResourceApi:
    """The part of the server that deals with objects; the caller holds the lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._deleter = Deleter(state)
        self._writer = Writer(state, self._deleter)

    def answer(self, request: Request, target: Target, *, behind: int = 0) -> Response:
        """Raises Refusal."""
        if not target.name:
            return self._of_collection(request, target, behind)
        return self._of_object(request, target)

    def direct(self, request: Request, target: Target) -> Object:
        """The result of a request as an object, for callers inside. Raises Refusal."""
        options = Options.of(request)
        match request.method:
            case "GET" if target.name:
                return self._shown(self._state.need(target), target)
            case "GET":
                return self._list_body(reading.listed(target, request, self._state), target)
            case "POST":
                return self._shown(self._writer.create(target, body_of(request, target), options).stored, target)
            case "PUT":
                return self._shown(self._writer.update(target, body_of(request, target), options).stored, target)
            case "PATCH":
                return self._shown(self._writer.patch(target, request, options).stored, target)
            case "DELETE":
                return self._shown(self._deleter.delete(target, DeleteOptions.of(request)).last, target)
            case _:
                raise method_not_allowed()

    def _of_collection(self, request: Request, target: Target, behind: int) -> Response:
        match request.method:
            case "GET":
                return self._list(request, target, behind)
            case "POST":
                return self._written(request, target, self._create(request, target))
            case "DELETE":
                return self._delete_collection(request, target)
            case _:
                raise method_not_allowed()

    def _of_object(self, request: Request, target: Target) -> Response:
        match request.method:
            case "GET":
                return self._object(200, self._state.need(target), request, target)
            case "PUT":
                outcome = self._writer.update(target, body_of(request, target), Options.of(request))
                return self._written(request, target, outcome)
            case "PATCH":
                return self._written(request, target, self._writer.patch(target, request, Options.of(request)))
            case "DELETE" if not target.subresource:
                return self._delete(request, target)
            case _:
                raise method_not_allowed()

    def _create(self, request: Request, target: Target) -> Outcome:
        body = body_of(request, target)
        return self._writer.create(target, body, Options.of(request))

    def _shown(self, stored: Object, target: Target) -> Object:
        return self._state.presented(stored, target.resource, target.version)

    def _written(self, request: Request, target: Target, outcome: Outcome) -> Response:
        return self._object(outcome.status, outcome.stored, request, target, outcome.warnings)

    def _object(
        self, status: int, stored: Object, request: Request, target: Target, warnings: tuple[str, ...] = ()
    ) -> Response:
        shown = self._shown(stored, target)
        if tables.wants_table(request.accept):
            meta = {"resourceVersion": stored["metadata"].get("resourceVersion", "")}
            shown = tables.table([shown], target, self._state, meta, include=request.option("includeObject"))
        return json_response(status, shown, *_warnings(target, warnings))

    def _list(self, request: Request, target: Target, behind: int) -> Response:
        page = reading.listed(target, request, self._state, behind=behind)
        if tables.wants_table(request.accept):
            shown = [self._shown(each, target) for each in page.items]
            include = request.option("includeObject")
            body = tables.table(shown, target, self._state, _list_meta(page), include=include)
        else:
            body = self._list_body(page, target)
        return json_response(200, body, *_warnings(target, ()))

    def _list_body(self, page: reading.Page, target: Target) -> Object:
        shown = [self._shown(each, target) for each in page.items]
        meta = _list_meta(page)
        if target.resource.custom:
            meta = {"continue": "", **meta}
        else:
            shown = [{k: v for k, v in each.items() if k not in ("kind", "apiVersion")} for each in shown]
        resource = target.resource
        return {"kind": resource.list_name, "apiVersion": target.api_version, "metadata": meta, "items": shown}

    def _delete(self, request: Request, target: Target) -> Response:
        deleted = self._deleter.delete(target, DeleteOptions.of(request))
        resource = target.resource
        if deleted.waits or resource.answers_deleted:
            return json_response(200, self._shown(deleted.last, target), *_warnings(target, ()))
        about = {
            "name": target.name,
            **({"group": resource.group} if resource.group else {}),
            "kind": resource.plural,
            "uid": deleted.last["metadata"]["uid"],
        }
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": about}
        return json_response(200, status, *_warnings(target, ()))

    def _delete_collection(self, request: Request, target: Target) -> Response:
        page = reading.listed(target, request, self._state)
        options = DeleteOptions.of(request)
        for each in page.items:
            meta = each["metadata"]
            inside = named(target, (meta.get("namespace", ""), meta["name"]))
            if self._state.find(inside) is not None:
                self._deleter.delete(inside, options)
        return json_response(200, self._list_body(page, target), *_warnings(target, ()))

    def watch(
        self, request: Request, target: Target, rhythm: Rhythm, closed: Callable[[Watch, Callable[[], None]], None]
    ) -> Watch:
        """Raises Refusal (400, 422, 500)."""
        state, store = self._state, self._state.store
        self._check_streaming(request)
        matches = reading.matcher(target, request, state)
        version = reading.parse_version(request.option("resourceVersion"))
        form = _Form(self, request, target, shows_null=state.release.shows_null_times)
        initial = request.flag("sendInitialEvents") and state.release.streaming_lists
        table = target.resource.table

        def on_change(change: Change) -> None:
            if change.version > version and (event := seen(change, matches)) is not None:
                watch.feed(form.line(change, *event))

        stop = store.listen(table, on_change, reading.pinned_name(target, request))

        watch = Watch(
            state.clock, rhythm, lambda: form.bookmark(store.settled), lambda closing: closed(closing, stop)
        )
        if initial or version == 0:
            for _, each in store.all(table):
                if matches(each):
                    watch.feed(form.added(each))
            if initial and request.flag("allowWatchBookmarks"):
                watch.feed(form.bookmark(store.settled, INITIAL_EVENTS_END))
        elif version < store.oldest(table):
            text = f"too old resource version: {version} ({store.oldest(table)})"
            watch.feed(encode({"type": "ERROR", "object": expired(text).status()}) + b"\n")
            watch.finish()
        else:
            for change in store.changes_after(table, version):
                on_change(change)
        return watch

    def _check_streaming(self, request: Request) -> None:
        """Raises Refusal (422) for a streaming list that the release does not know, or that is half asked for."""
        match, streams = request.option("resourceVersionMatch"), request.option("sendInitialEvents")
        known = self._state.release.streaming_lists
        causes: list[Cause] = []
        if match and not (known and streams):
            unless = " unless sendInitialEvents is provided" if known else ""
            why = "resourceVersionMatch is forbidden for watch" + unless
            causes.append(forbidden("resourceVersionMatch", why))
            if not request.option("resourceVersion"):
                why = "resourceVersionMatch is forbidden unless resourceVersion is provided"
                causes.append(forbidden("resourceVersionMatch", why))
        elif streams and match != reading.NOT_OLDER and known:
            why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            causes.append(forbidden("resourceVersionMatch", why))
        if causes:
            raise invalid("ListOptions", "meta.k8s.io", "", causes)

    def shown_event(self, step: Step, stored: Object, target: Target, request: Request, *, headers: bool) -> bytes:
        """One line of a watch."""
        shown = self._shown(stored, target)
        if tables.wants_table(request.accept):
            meta = {"resourceVersion": stored["metadata"]["resourceVersion"]}
            include = request.option("includeObject")
            shown = tables.table([shown], target, self._state, meta, include=include, headers=headers)
        return encode({"type": step.name, "object": shown}) + b"\n"


class _Form:
    """How one watch writes its events."""

    def __init__(self, api: ResourceApi, request: Request, target: Target, *, shows_null: bool) -> None:
        self._api = api
        self._shows_null = shows_null
        self._request = request
        self._target = target
        self._as_table = tables.wants_table(request.accept)
        self._first = True

    def added(self, stored: Object) -> bytes:
        return self._line(Step.ADDED, stored)

    def line(self, change: Change, step: Step, stored: Object) -> bytes:
        """The line of a change; watches of the same form share it."""
        if self._as_table:
            return self._line(step, stored)
        form = (self._target.resource.group, self._target.version, f"{step.name}{stored is change.current}")
        if form not in change.lines:
            change.lines[form] = self._line(step, stored)
        return change.lines[form]

    def _line(self, step: Step, stored: Object) -> bytes:
        line = self._api.shown_event(step, stored, self._target, self._request, headers=self._first)
        self._first = False
        return line

    def bookmark(self, version: int, annotations: Object | None = None) -> bytes:
        meta: Object = {"resourceVersion": str(version)} | (
            {"creationTimestamp": None} if self._shows_null else {}
        )
        if annotations:
            meta["annotations"] = annotations
        resource: Resource = self._target.resource
        shown = {"kind": resource.kind, "apiVersion": self._target.api_version, "metadata": meta}
        return encode({"type": "BOOKMARK", "object": shown}) + b"\n"


def _list_meta(page: reading.Page) -> Object:
    meta: Object = {"resourceVersion": str(page.version)}
    if page.token:
        meta |= {"continue": page.token, "remainingItemCount": page.remaining}
    return meta


def _warnings(target: Target, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """Warning headers (RFC 7234: 299, no agent, quoted text)."""
    known = target.resource.deprecated.get(target.version)
    said = ((known,) if known else ()) + texts
    return [("Warning", '299 - "{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))) for text in said]
