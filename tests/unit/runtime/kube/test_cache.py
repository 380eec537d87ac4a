"""The cache by itself: what a list or a change makes of it, and which keys are told."""

from hypothesis import given
from hypothesis import strategies as st

from reconciler.runtime.kube.cache import Cache, Cached, Key, Seen

KEYS = st.builds(Key, namespace=st.just(""), name=st.sampled_from("abc"))
SEEN: st.SearchStrategy[Seen[str]] = st.builds(
    lambda key, uid, version, good: Seen(
        key=key,
        uid=uid,
        resource_version=version,
        value=f"{uid} {version}" if good else None,
        why="" if good else f"{version} is bad",
    ),
    KEYS,
    st.sampled_from(("u1", "u2")),
    st.sampled_from("12"),
    st.booleans(),
)
LISTS = st.lists(SEEN, unique_by=lambda seen: seen.key)


def filled(everything: list[Seen[str]]) -> Cache[str]:
    cache: Cache[str] = Cache()
    cache.replace(everything)
    return cache


def view(cache: Cache[str], key: Key) -> tuple[Cached[str] | None, str | None]:
    return cache.entry(key), cache.undecodable().get(key)


def expected(before: Cached[str] | None, seen: Seen[str]) -> tuple[Cached[str] | None, str | None]:
    """What readers should see of an object after it was seen."""
    if seen.value is not None:
        return Cached(uid=seen.uid, resource_version=seen.resource_version, value=seen.value), None
    if before is not None and before.uid == seen.uid:
        kept = Cached(
            uid=before.uid, resource_version=before.resource_version, value=before.value, undecodable=seen.why
        )
        return kept, seen.why
    return None, seen.why


@given(before=LISTS, seen=SEEN)
def test_a_change_concerns_its_object_only(before: list[Seen[str]], seen: Seen[str]) -> None:
    cache = filled(before)
    was = {key: view(cache, key) for key in (seen.key, *(each.key for each in before))}
    wanted = expected(was[seen.key][0], seen)
    assert cache.put(seen) == (wanted != was[seen.key])
    assert view(cache, seen.key) == wanted
    assert cache.get(seen.key) == (wanted[0].value if wanted[0] else None)
    assert all(view(cache, key) == old for key, old in was.items() if key != seen.key)


@given(before=LISTS, after=LISTS)
def test_a_list_replaces_everything_and_tells_what_differs(
    before: list[Seen[str]], after: list[Seen[str]]
) -> None:
    cache = filled(before)
    keys = {each.key for each in before + after}
    was = {key: view(cache, key) for key in keys}
    wanted = dict.fromkeys(keys, (None, None)) | {each.key: expected(was[each.key][0], each) for each in after}
    changed = cache.replace(after)
    assert {key: view(cache, key) for key in keys} == wanted
    assert sorted(changed) == sorted(key for key in keys if was[key] != wanted[key])
    assert dict(cache.items()) == {key: entry.value for key, (entry, _) in wanted.items() if entry}
    assert len(cache) == len(cache.entries()) == len(cache.items())


@given(before=LISTS, key=KEYS)
def test_what_is_removed_is_gone(before: list[Seen[str]], key: Key) -> None:
    cache = filled(before)
    assert cache.remove(key) == any(each.key == key for each in before)
    assert view(cache, key) == (None, None)
    assert not cache.remove(key)
