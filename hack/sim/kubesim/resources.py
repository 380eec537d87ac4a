"""What kinds of objects the server knows, and where a URL points."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubesim.schema import Schema
from kubesim.values import Object

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource, in all its served versions; the first is the preferred one.

    `internal` is the version in which objects are stored, `stored_as` the table that another group shares with
    this one (Events). `plain_capacities` is for ResourceSlices whose capacities are mere quantities. A custom
    resource brings its definition, and in `ownership` schemas that include metadata.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str
    singular: str
    internal: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    counts_generations: bool = False
    needs_resource_version: bool = False
    created_by_update: bool = False
    answers_deleted: bool = False
    plain_capacities: bool = False
    list_kind: str = ""
    definition: Object | None = None
    stored_as: tuple[str, str] | None = None
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    ownership: Mapping[str, Schema] = field(default_factory=dict)
    deprecated: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.plural

    @property
    def table(self) -> tuple[str, str]:
        """Where its objects are stored."""
        return self.stored_as or self.key

    @property
    def custom(self) -> bool:
        return self.definition is not None

    @property
    def list_name(self) -> str:
        return self.list_kind or f"{self.kind}List"

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def api_version(self, version: str) -> str:
        return f"{self.group}/{version}" if self.group else version

    def base_path(self, version: str) -> str:
        """The URL path of the group and version."""
        return f"apis/{self.group}/{version}" if self.group else f"api/{version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a URL names: a collection (no name), an object, or a part of one."""

    resource: Resource
    version: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Where the object is in its table."""
        return self.namespace, self.name

    @property
    def api_version(self) -> str:
        return self.resource.api_version(self.version)

    @property
    def schema(self) -> Schema | None:
        return self.resource.schemas.get(self.version)

    @property
    def ownership_schema(self) -> Schema | None:
        """The schema by which fields have owners."""
        return self.resource.ownership.get(self.version) or self.schema
