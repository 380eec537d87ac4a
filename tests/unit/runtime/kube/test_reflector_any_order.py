"""Whatever happens in whatever order: once faults stop, the cache is what the server has."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Response
from tests.unit.runtime.kube.following import Following, following
from tests.unit.runtime.kube.memory_server import UNREADABLE, MemoryServer, status
from tests.unit.runtime.kube.replies import Lines

KEYS = st.builds(Key, namespace=st.sampled_from(("", "n")), name=st.sampled_from("abc"))
BREAKS = st.sampled_from((None, Unreachable("connection reset"), Unreachable("timed out", silent=True)))
ANSWERS = st.sampled_from((404, 410, 429, 500, 503, 403)).map(lambda code: status(code, "")) | st.sampled_from(
    (Unreachable("refused", never_sent=True), Response(status=200, body=b"garbage"))
)


class CacheAndServer(RuleBasedStateMachine):
    """Changes, breaks and answers that are wrong; the reflector runs all the while in its thread."""

    @initialize(keys=st.sets(KEYS), page=st.integers(1, 3))
    def begin(self, keys: set[Key], page: int) -> None:
        self.server = MemoryServer()
        self.noise = 0
        self.uids: dict[Key, str] = {}
        for key in keys:
            self.put(key, anew=False)
        self.running = following(self.server, page=page)
        self.told: Following = self.running.__enter__()

    @rule(key=KEYS, anew=st.booleans())
    def put(self, key: Key, anew: bool) -> None:
        self.noise += 1
        self.server.put(key, f"{self.noise}", anew=anew)

    @rule(key=KEYS)
    def put_unreadable(self, key: Key) -> None:
        self.server.put(key, UNREADABLE)

    @rule(key=KEYS)
    def delete(self, key: Key) -> None:
        if key in self.server.objects:
            self.server.delete(key)

    @rule()
    def bookmark(self) -> None:
        self.server.bookmark()

    @rule()
    def compact(self) -> None:
        self.server.compact()

    @rule(how=BREAKS)
    def break_watches(self, how: Unreachable | None) -> None:
        self.server.drop(how)

    @rule(answer=ANSWERS)
    def spoil_a_list(self, answer: Response | Unreachable) -> None:
        with self.server.lock:
            self.server.list_faults.append(answer)

    @rule(answer=ANSWERS)
    def spoil_a_watch(self, answer: Response | Unreachable) -> None:
        spoilt = answer if isinstance(answer, Unreachable) else Lines(answer)
        if isinstance(spoilt, Lines) and spoilt.head.status == 200:
            spoilt.feed(b"garbage", None)
        with self.server.lock:
            self.server.watch_faults.append(spoilt)

    @rule()
    def wait_until_the_same(self) -> None:
        self.told.until(self.same)

    def same(self) -> bool:
        with self.server.lock:
            stored = dict(self.server.objects)
        cache = self.told.reflector.cache
        readable = {key: each for key, each in stored.items() if each.data != UNREADABLE}
        entries = cache.entries()
        return (
            cache.undecodable().keys() == stored.keys() - readable.keys()
            and {k: (e.uid, e.resource_version, e.value.data) for k, e in entries.items() if not e.undecodable}
            == {key: (each.uid, str(each.version), each.data) for key, each in readable.items()}
            and all(stored[key].uid == entry.uid for key, entry in entries.items())
        )

    def teardown(self) -> None:
        if not hasattr(self, "running"):
            return
        try:
            self.told.until(self.same)
            assert self.told.reflector.synced.is_set()
            known = {key for key, _ in self.told.reflector.cache.items()}
            assert known <= set(self.told.changed), "a change nobody was told of"
        finally:
            self.running.__exit__(None, None, None)


TestCacheAndServer = CacheAndServer.TestCase
TestCacheAndServer.settings = settings(max_examples=60, stateful_step_count=25)
