"""What the official loader leaves out about a kubeconfig: shapes checked with the path of what is wrong, kubectl's
rule that the first of several files wins, and tokens in files.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from reconciler.runtime.files import FileRefused, read_bounded
from reconciler.runtime.kube.config import ConfigError

_LIMIT = 4 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The context to use, and how its user proves who he is. `user_field` names him in error messages."""

    context: str
    user_field: str
    token_file: Path | None
    plugin: str
    """Field of a credential plugin: exec, auth-provider or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    path: Path
    field: str
    value: dict[str, object]


def choose(paths: tuple[Path, ...], context: str | None) -> Choice:
    """Read kubeconfig files and find the context named, or else the current one; raises ConfigError."""
    documents = tuple((path, _read(path)) for path in paths)
    source = ":".join(map(str, paths))
    wanted = context or _current(documents)
    if not wanted:
        raise ConfigError(f"{source}: current-context: is not set, and no context was asked for")
    found = _find(documents, "contexts", "context", wanted)
    if found is None:
        names = ", ".join(sorted(_names(documents, "contexts"))) or "none"
        raise ConfigError(f"{source}: contexts: no {wanted!r} among them (there are: {names})")
    cluster, user = _text(found, "cluster"), _text(found, "user")
    there = _find(documents, "clusters", "cluster", cluster)
    if there is None:
        raise ConfigError(f"{found.field}.cluster: {cluster!r} is not in the list of clusters")
    if not _text(there, "server"):
        raise ConfigError(f"{there.field}.server: is not set")
    entry = _find(documents, "users", "user", user) if user else None
    if user and entry is None:
        raise ConfigError(f"{found.field}.user: {user!r} is not in the list of users")
    return _choice(wanted, entry or _Entry(path=paths[0], field=f"{source}: users", value={}))


def _choice(context: str, user: _Entry) -> Choice:
    token_file = _text(user, "tokenFile")
    return Choice(
        context=context,
        user_field=user.field,
        token_file=user.path.absolute().parent / token_file if token_file else None,
        plugin=next((plugin for plugin in ("exec", "auth-provider") if plugin in user.value), ""),
    )


def _read(path: Path) -> dict[str, object]:
    try:
        document = yaml.load(read_bounded(path, _LIMIT, follow=True), Loader=yaml.CSafeLoader)
    except FileRefused as error:
        raise ConfigError(f"kubeconfig {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"kubeconfig {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path}: is not a mapping")
    return document


def _current(documents: tuple[tuple[Path, dict[str, object]], ...]) -> str:
    for path, document in documents:
        current = document.get("current-context")
        if current:
            if not isinstance(current, str):
                raise ConfigError(f"{path}: current-context: is not a text")
            return current
    return ""


def _names(documents: tuple[tuple[Path, dict[str, object]], ...], plural: str) -> list[str]:
    return [str(item.get("name")) for path, document in documents for item in _items(path, document, plural)]


def _find(
    documents: tuple[tuple[Path, dict[str, object]], ...], plural: str, singular: str, name: str
) -> _Entry | None:
    for path, document in documents:
        for item in _items(path, document, plural):
            if item.get("name") == name:
                field = f"{path}: {plural}[name={name}].{singular}"
                value = item.get(singular) or {}
                if not isinstance(value, dict):
                    raise ConfigError(f"{field}: is not a mapping")
                return _Entry(path=path, field=field, value=value)
    return None


def _items(path: Path, document: dict[str, object], plural: str) -> list[dict[str, object]]:
    items = document.get(plural) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) and "name" in item for item in items):
        raise ConfigError(f"{path}: {plural}: is not a list of mappings with names")
    return items


def _text(entry: _Entry, name: str) -> str:
    value = entry.value.get(name) or ""
    if not isinstance(value, str):
        raise ConfigError(f"{entry.field}.{name}: is not a text")
    return value
