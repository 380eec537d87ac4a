"""The hooks of a kind. All of them see objects in the form in which they are stored."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kubesim.refusals import Cause
from kubesim.values import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a rule may look at besides the object: the state before, the part that is written, the namespace, and
    the release's minor version.
    """

    old: Object | None
    subresource: str = ""
    minor: int = 36
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def _nothing(_: Object) -> None:
    """No defaults."""


def _timeless(_: Object, _now: str) -> None:
    """Nothing is stamped."""


def _unchanged(_new: Object, _old: Object) -> None:
    """Updates need no preparation."""


def _valid(_new: Object, _view: View) -> Iterable[Cause]:
    return ()


def _silent(_: Object) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """`default`, `stamp` (which is told the time), `create`, `update` and, once all is checked, `tidy` change the
    object they are given, which is a copy.
    """

    default: Callable[[Object], None] = _nothing
    stamp: Callable[[Object, str], None] = _timeless
    create: Callable[[Object], None] = _nothing
    update: Callable[[Object, Object], None] = _unchanged
    causes: Callable[[Object, View], Iterable[Cause]] = _valid
    tidy: Callable[[Object], None] = _nothing
    warnings: Callable[[Object], Iterable[str]] = _silent
    selectable: frozenset[str] = frozenset()
